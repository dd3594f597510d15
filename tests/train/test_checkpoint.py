"""Checkpoints: exact, complete or not there, and never lost to a full disk or a damaged file."""

import resource
from pathlib import Path

import pytest
import torch
from torch import nn

from avssl.errors import ConfigError, UserError
from avssl.train import checkpoint
from avssl.train.checkpoint import Progress
from avssl.train.experiment import load_experiment
from avssl.train.weights import stage_weights
from tests.train import tiny


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64)
        self.register_buffer("table", torch.randn(4))


def made(seed: int) -> tuple[Model, torch.optim.AdamW]:
    torch.manual_seed(seed)
    model = Model()
    groups = [{"params": [p], "name": n, "lr_scale": 1.0} for n, p in model.named_parameters()]
    optimizer = torch.optim.AdamW(groups, lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model.linear(torch.randn(8, 64)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def save(folder: Path, step: int, model: Model, optimizer: torch.optim.AdamW) -> None:
    progress = Progress("stage1", step, 100, False, 1.5, "8 (0)")
    checkpoint.save(folder, progress, model, optimizer, keep=2)


def test_everything_comes_back_bit_for_bit(tmp_path: Path) -> None:
    model, optimizer = made(0)
    save(tmp_path, 3, model, optimizer)
    other, other_optimizer = made(1)
    path, progress, damaged = checkpoint.newest(tmp_path)
    assert (
        path is not None
        and progress == Progress("stage1", 3, 100, False, 1.5, "8 (0)")
        and not damaged
    )
    checkpoint.load(path, other, other_optimizer)
    for key, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[key], value)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        for key, value in optimizer.state[one].items():
            assert torch.equal(other_optimizer.state[two][key], value), key


def test_the_newest_are_kept(tmp_path: Path) -> None:
    model, optimizer = made(0)
    for step in (5, 10, 15, 100):
        save(tmp_path, step, model, optimizer)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000015", "step-000100"]


def test_a_stop_between_two_checkpoints_changes_none_that_is_kept(tmp_path: Path) -> None:
    model, optimizer = made(0)
    for step in (30, 60, 75, 80, 90, 100):  # stopped twice
        progress = Progress("stage1", step, 100, False, 1.5, "8 (0)")
        checkpoint.save(tmp_path, progress, model, optimizer, keep=3, every=30)
        kept = [saved for saved, _ in checkpoint.steps_saved(tmp_path)]
        assert kept[-1] == step and len(kept) <= 3
    assert kept == [60, 90, 100]


@pytest.mark.parametrize("name", [checkpoint.MODEL, checkpoint.OPTIMIZER, checkpoint.STATE])
@pytest.mark.parametrize("how", ["cut", "flipped", "gone"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(
    tmp_path: Path, name: str, how: str
) -> None:
    model, optimizer = made(0)
    save(tmp_path, 5, model, optimizer)
    save(tmp_path, 10, model, optimizer)
    file = tmp_path / "step-000010" / name
    content = bytearray(file.read_bytes())
    if how == "gone":
        file.unlink()
    else:
        content[len(content) // 2] ^= 1 << 4
        file.write_bytes(content[: len(content) // 2] if how == "cut" else content)
    path, progress, damaged = checkpoint.newest(tmp_path)
    assert path == tmp_path / "step-000005" and progress is not None and progress.step == 5
    assert len(damaged) == 1 and "step-000010 is damaged" in damaged[0] and name in damaged[0]


def test_who_starts_from_a_run_that_cannot_be_read_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: [a")
    with pytest.raises(ConfigError, match=r"but got '<stream end>'\.$"):
        load_experiment(tiny.CONFIGS / "mae.yaml", [f"args.init={tmp_path}:encoder"])


def test_who_starts_from_a_run_is_told_that_its_newest_is_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, optimizer = made(0)
    for step in (5, 10):
        save(tmp_path / "checkpoints" / "stage1", step, model, optimizer)
    (tmp_path / "checkpoints" / "stage1" / "step-000010" / checkpoint.MODEL).write_bytes(b"")
    stage_weights(tmp_path, "stage1")
    told = capsys.readouterr().err
    assert "step-000010 is damaged" in told and "step-000005 is taken" in told
    (tmp_path / "checkpoints" / "stage1" / "step-000005" / checkpoint.MODEL).unlink()
    with pytest.raises(UserError, match="no intact checkpoint of stage1"):
        stage_weights(tmp_path, "stage1")


def test_half_written_ones_are_never_seen_and_are_cleared(tmp_path: Path) -> None:
    model, optimizer = made(0)
    (tmp_path / ".step-000005.tmp").mkdir()
    assert checkpoint.newest(tmp_path) == (None, None, [])
    save(tmp_path, 5, model, optimizer)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000005"]


def test_weights_that_do_not_fit_are_all_named(tmp_path: Path) -> None:
    model, optimizer = made(0)
    save(tmp_path, 5, model, optimizer)
    model.linear = nn.Linear(64, 32)
    model.extra = nn.Linear(2, 2, bias=False)
    with pytest.raises(UserError) as error:
        checkpoint.load(tmp_path / "step-000005", model, optimizer)
    for part in ("missing extra.weight", "linear.weight is [64, 64] instead of [32, 64]"):
        assert part in str(error.value)


def test_a_full_disk_leaves_the_earlier_checkpoints(tmp_path: Path) -> None:
    model, optimizer = made(0)
    save(tmp_path, 5, model, optimizer)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"step 10 could not be written.*step 5 is intact"):
            save(tmp_path, 10, model, optimizer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000005"]
    assert checkpoint.check(tmp_path / "step-000005").step == 5
    save(tmp_path, 10, model, optimizer)


def test_a_run_on_a_full_disk_ends_with_a_sentence_and_can_go_on(tmp_path: Path) -> None:
    path, log = tiny.write(tmp_path), tmp_path / "log"
    whole = ["stages.first.steps=8", "stages.second.steps=1", "train.save_every=2"]
    limited = tiny.start(path, whole, output=log, file_limit=3_000)
    limited.join(tiny.PATIENCE)
    assert limited.exitcode == 2, log.read_text()
    assert "run the same command again" in log.read_text()
    assert "Traceback" not in log.read_text()
    again = tiny.start(path, whole, output=log)
    again.join(tiny.PATIENCE)
    assert again.exitcode == 0, log.read_text()

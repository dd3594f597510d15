"""Teachers that do not fit or are not there: one sentence, exit code 2, before any training."""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import avssl.train.checkpoint
import avssl.train.clips
from avssl.errors import run_tool
from avssl.train.run import train
from tests.train import tiny

CONFIGS = tiny.CONFIGS


@pytest.fixture
def refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """`refused(path, *overrides)` runs the tool's main function and gives its one sentence."""

    def no_data(*_: object) -> None:
        pytest.fail("data was read")

    def refuse(path: Path, *overrides: str) -> str:
        monkeypatch.setattr(avssl.train.clips, "open_clips", no_data)
        run = tmp_path / "refused"
        with pytest.raises(SystemExit) as end:
            run_tool(lambda: train(path, [*overrides, f"run={run}"]))()
        assert end.value.code == 2 and not run.exists()
        lines = capsys.readouterr().err.splitlines()
        if lines[-1] == "1 problem found.":
            lines.pop()
        assert len(lines) == 1, lines
        return lines[0]

    return refuse


def test_a_teacher_of_other_pictures(refused: Callable[..., str]) -> None:
    args = ["stages.image_teacher.args.image=32", "data.inputs.image.size=32"]
    said = refused(CONFIGS / "mvd.yaml", *args)
    assert "'teacher_image.x' takes [B, 3, 1, 32, 32]" in said and "[4, 3, 1, 64, 64]" in said


@pytest.mark.parametrize(
    ("name", "argument", "said"),
    [
        ("mvd", "image_features=48", ("prediction [2, 128, 48]", "target [2, 128, 96]")),
        ("dmae", "teacher_width=64", ("prediction [2, 17, 64]", "target [2, 17, 192]")),
        ("mimco", "teacher_width=48", ("prediction [2, 64, 48]", "target [2, 64, 96]")),
    ],
)
def test_a_teacher_of_another_width(
    name: str, argument: str, said: tuple[str, str], refused: Callable[..., str]
) -> None:
    sentence = refused(CONFIGS / f"{name}.yaml", f"args.{argument}")
    assert all(part in sentence for part in said)


def test_a_teacher_with_other_patches(refused: Callable[..., str]) -> None:
    said = refused(CONFIGS / "mvd.yaml", "stages.image_teacher.args.patch=16")
    assert "prediction [2, 128, 96]" in said and "target [2, 32, 96]" in said
    # the indices of the mask would point at other patches of the teacher
    said = refused(CONFIGS / "dmae.yaml", "stages.teacher.args.patch=16")
    assert "'m.keep' counts 64 patches, but 'teacher' has 16, a grid of 4 x 4" in said


@pytest.mark.parametrize(
    ("name", "argument", "said"),
    [
        ("mimco", "mask_patch=12", "random_mask: cell [1, 12, 12] is no multiple of the patch"),
        ("mimco", "mask_patch=24", "24"),
    ],
)
def test_a_mask_beside_the_grid_of_patches(
    name: str, argument: str, said: str, refused: Callable[..., str]
) -> None:
    assert said in refused(CONFIGS / f"{name}.yaml", f"args.{argument}")


def test_a_teacher_that_is_no_stage_and_no_file(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    said = refused(CONFIGS / "mvd.yaml", "args.image_teacher=image_techer.image")
    assert "no stage 'image_techer'" in said and "Did you mean 'image_teacher'?" in said
    said = refused(CONFIGS / "mvd.yaml", "args.image_teacher=weights/mae.pth:image")
    assert "'weights/mae.pth' is neither a run folder nor a checkpoint" in said
    said = refused(CONFIGS / "mvd.yaml", "args.image_teacher=runs/mae:")
    assert "'runs/mae:' must be 'stage.module'" in said and "'run folder:module'" in said
    said = refused(CONFIGS / "mvd.yaml", "args.image_teacher=runs/x/checkpoints/mae/step-9:image")
    assert said.endswith("the newest intact step is taken: write 'runs/x/checkpoints/mae:image'.")
    missing = "{file: weights/mae.pth, module: image}"
    said = refused(CONFIGS / "mvd.yaml", f"args.image_teacher={missing}")
    assert "there is no checkpoint 'weights/mae.pth'" in said


def test_a_teacher_whose_run_was_not_trained(
    refused: Callable[..., str], tmp_path: Path, run: Callable[..., None]
) -> None:
    path = tiny.write(tmp_path)
    run(path, "stages.second.repeat=1")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "second")
    graph = tmp_path / "configs" / "graphs" / "promoted.yaml"
    graph.write_text(graph.read_text().replace("previous.audio", f"{tmp_path / 'run'}:audio"))
    said = refused(path)
    assert f"the run {tmp_path / 'run'} holds no checkpoint of its stage second" in said


def test_a_teacher_of_any_stage_of_a_run(
    refused: Callable[..., str], tmp_path: Path, run: Callable[..., None]
) -> None:
    path, folder = tiny.write(tmp_path), tmp_path / "run"
    run(path)
    graph = tmp_path / "configs" / "graphs" / "promoted.yaml"
    text = graph.read_text()
    graph.write_text(text.replace("previous.audio", f"{folder}/checkpoints/first:audio"))
    run(path, "stages.first=null", f"run={tmp_path / 'other'}")
    found, name = tiny.weights(tmp_path / "other", "second"), "encoder.blocks.0.attn.qkv.weight"
    teachers = {
        stage: tiny.weights(folder, stage)[f"audio.{name}"] for stage in ("first", "second")
    }
    assert torch.equal(found[f"teacher.{name}"], teachers["first"])
    assert not torch.equal(teachers["first"], teachers["second"])
    graph.write_text(text.replace("previous.audio", f"{folder}/checkpoints/frist:audio"))
    said = refused(path)
    assert f"{folder} has no stage 'frist': its stages are first, second, second.2" in said


def test_weights_of_a_run_that_do_not_fit_a_later_stage(
    refused: Callable[..., str], tmp_path: Path, run: Callable[..., None]
) -> None:
    path, folder = tiny.write(tmp_path), tmp_path / "run"
    run(path, "stages.second=null")
    graph = tmp_path / "configs" / "graphs" / "promoted.yaml"
    started = tiny.STUDENT.replace("type: graph,", 'type: graph, init_from: "FROM",')
    for text, said in [
        (started.replace("FROM", f"{folder}:head"), "does not fit the weights of '{folder}:head'"),
        (started.replace("FROM", "first.head"), "does not fit the weights of 'first.head'"),
        (
            started.replace("FROM", f"{folder}:audio").replace("heads: 2", "heads: 4"),
            "'{folder}:audio' has 2 attention heads, this module 4",
        ),
    ]:
        graph.write_text(text)
        assert said.format(folder=folder) in refused(path)


def test_a_damaged_teacher_of_a_later_stage(
    refused: Callable[..., str],
    tmp_path: Path,
    run: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, folder = tiny.write(tmp_path), tmp_path / "run"
    run(path, "stages.second=null")
    graph = tmp_path / "configs" / "graphs" / "promoted.yaml"
    graph.write_text(graph.read_text().replace("previous.audio", f"{folder}:audio"))

    def locked(file: Path) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(file))

    with monkeypatch.context() as patch:
        patch.setattr(avssl.train.checkpoint, "_sha256", locked)
        assert refused(path).endswith("model.safetensors': Permission denied.")
    for file in folder.glob("checkpoints/first/*/model.safetensors"):
        file.write_bytes(file.read_bytes()[:-1])
    said = refused(path)
    assert f"module 'teacher': {folder} holds no intact checkpoint of first" in said


@pytest.mark.parametrize(
    ("towers", "said"),
    [
        ("{image: image.pooled, video: video_decoder.tokens}", "needs the input 'restore'"),
        ("{image: regression.loss}", "unexpected keyword argument 'x'"),
        ("{image: image.tokens}", "gives [2, 65, 96] for 2 clips, not [B, D]"),
    ],
)
def test_a_probed_tower_of_a_later_stage(
    towers: str, said: str, refused: Callable[..., str]
) -> None:
    assert said in refused(CONFIGS / "mvd.yaml", f"probe.towers={towers}")


def test_a_teacher_whose_run_prepared_its_input_otherwise(
    tmp_path: Path, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    path, folder = tiny.write(tmp_path), tmp_path / "run"
    run(path, "stages.second=null")
    graph = tmp_path / "configs" / "graphs" / "promoted.yaml"
    graph.write_text(graph.read_text().replace("previous.audio", f"{folder}:audio"))
    alone = ["stages.first=null", "stages.second.repeat=1", "stages.second.steps=1"]
    run(path, *alone, f"run={tmp_path / 'alike'}")
    assert "was trained with" not in capsys.readouterr().err
    run(path, *alone, f"run={tmp_path / 'other'}", "data.inputs.audio.std=1.5")
    said = capsys.readouterr().err
    assert "warning: second: data.inputs.audio has mean -4.2677393, std 1.5, but the tea" in said
    assert (
        f"the teacher 'teacher' was trained with mean -4.2677393, std 4.5689974 ({folder}" in said
    )

"""`teacher_cache`: the same losses with fewer teachers, and nothing but its own targets."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import avssl.train.clips
from avssl.errors import ConfigError, UserError
from avssl.graph.targets import settled_targets
from avssl.train.experiment import load_experiment
from avssl.train.run import train
from avssl.train.target_store import TargetStore
from tests.recipes.students import clip, dmae, mae, mimco, mvd
from tests.train import tiny
from tests.train.test_run import interrupt

Run = Callable[..., None]
STEADY = ["data.window_position=middle", "stages.second.repeat=1", "stages.second.steps=20"]
TARGET = "t.pooled.npy"


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows that runs write, in order."""
    rows: list[int] = []
    write = TargetStore.write

    def counted(self, places, values):  # type: ignore[no-untyped-def]
        rows.extend(places)
        return write(self, places, values)

    monkeypatch.setattr(TargetStore, "write", counted)
    return rows


def cached(folder: Path) -> list[str]:
    return [*STEADY, f"stages.second.teacher_cache.folder={folder / 'cache'}"]


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in tiny.metrics(run) if row["stage"] == "second"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has filled its cache."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(avssl.train.clips, "open_clips", tiny.TinyClips)
        train(tiny.write(folder), cached(folder))
    return folder


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    """The experiment file of such a run, in a folder of the test."""
    for part in ("run", "cache"):
        shutil.copytree(whole / part, tmp_path / part)
    return tiny.write(tmp_path)


def again(folder: Path, name: str = "again") -> list[str]:
    """Overrides of another run with the same cache."""
    return [*cached(folder), f"run={folder / name}"]


def test_losses_are_those_without_a_cache_and_each_clip_is_computed_once(
    path: Path, tmp_path: Path, run: Run, written: list[int]
) -> None:
    run(path, *STEADY, f"run={tmp_path / 'plain'}")
    assert not written
    shutil.rmtree(tmp_path / "cache")
    run(path, *again(tmp_path))
    assert sorted(written) == list(range(64))
    plain, kept = losses(tmp_path / "plain"), losses(tmp_path / "again")
    assert len(kept) == 20 and kept == pytest.approx(plain, abs=1e-6, rel=0)
    a, b = (tiny.weights(tmp_path / name, "second") for name in ("plain", "again"))
    assert all(torch.allclose(a[key], b[key], atol=1e-5) for key in a)


def test_a_student_with_other_settings_reads_the_same_targets(
    path: Path, tmp_path: Path, run: Run, written: list[int]
) -> None:
    written.clear()
    run(path, *again(tmp_path), "stages.second.args.temperature=0.3", "stages.second.steps=9")
    assert not written


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("seed=1", r"teachers\.teacher is [0-9a-f]{16} there and [0-9a-f]{16} here"),
        ("data.inputs.audio.mean=1.0", r"data\.inputs\.audio\.mean is -4\.2677393 there and 1\.0"),
        ("data.window=3.0", r"data\.window is 2\.0 there and 3\.0 here"),
        ("train.teacher_precision=bf16", r"train\.teacher_precision is fp32 there and bf16 here"),
        ("stages.second.teacher_cache.precision=fp16", r"precision is fp32 there and fp16 here"),
    ],
)
def test_targets_of_something_else_are_refused(
    path: Path, change: str, said: str, tmp_path: Path, run: Run
) -> None:
    with pytest.raises(UserError, match=f"made from something else: .*{said}.*Give another") as e:
        run(path, *again(tmp_path), change)
    assert "\n" not in str(e.value)
    # what does not hang on weights is found before the first stage is trained
    trained = (tmp_path / "again" / "metrics.jsonl").is_file()
    assert trained == (change == "seed=1")


def test_targets_of_another_graph_are_refused(path: Path, tmp_path: Path, run: Run) -> None:
    file = tmp_path / "cache" / "second" / "cache.json"
    record = json.loads(file.read_text())
    record["made_of"]["graph"]["t"]["reads"]["x"] = "batch.view"
    file.write_text(json.dumps(record))
    with pytest.raises(
        UserError, match=r"graph\.t\.reads\.x is batch\.view there and batch\.audio"
    ):
        run(path, *again(tmp_path))


@pytest.mark.parametrize(
    ("what", "now", "said"),
    [
        ("fingerprint", "64 (others)", r"data\.train clips is 64 \(tiny\) there and 64 \(others\)"),
        ("file_sizes", "9 (others)", r"data\.bytes of their files is 0 \(tiny\) there and 9 \(oth"),
    ],
)
def test_targets_of_other_clips_are_refused(
    path: Path,
    what: str,
    now: str,
    said: str,
    tmp_path: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tiny.TinyClips, what, now)
    with pytest.raises(UserError, match=said):
        run(path, *again(tmp_path))


class Ending(tiny.TinyClips):
    """Asks to end in the first epoch of the stage that has a cache."""

    def batches(self, **wanted: Any) -> Iterator[dict[str, Any]]:
        for number, batch in enumerate(super().batches(**wanted)):
            if (wanted["steps"], wanted["start"], number) == (20, 0, 5):
                interrupt()
            yield batch


def test_a_run_that_ends_in_its_first_epoch_goes_on_bit_for_bit(
    path: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, written: list[int]
) -> None:
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr(avssl.train.clips, "open_clips", Ending)
    run(path, *again(tmp_path))
    assert len(losses(tmp_path / "again")) == 6 and len(written) == 48
    run(path, *again(tmp_path))
    assert sorted(written) == list(range(64))
    assert tiny.metrics(tmp_path / "again") == tiny.metrics(tmp_path / "run")


def test_a_cache_half_made_is_made_whole(
    path: Path, tmp_path: Path, run: Run, written: list[int]
) -> None:
    """As a process leaves it that was killed while it wrote: some rows are there, one in part."""
    folder = tmp_path / "cache" / "second"
    sums = np.load(folder / "rows.npy", mmap_mode="r+")
    sums[10:20] = 0
    targets = np.load(folder / TARGET, mmap_mode="r+")
    targets[15] = 7.0
    targets.flush()
    sums.flush()
    written.clear()
    run(path, *again(tmp_path))
    assert sorted(written) == list(range(10, 20))
    assert losses(tmp_path / "again") == pytest.approx(losses(tmp_path / "run"), abs=1e-6, rel=0)


def test_damaged_rows_are_made_anew_and_told(
    path: Path, tmp_path: Path, run: Run, written: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cache" / "second"
    targets = np.load(folder / TARGET, mmap_mode="r+")
    targets[3, 5] += 1.0
    targets.flush()
    written.clear()
    capsys.readouterr()
    run(path, *again(tmp_path))
    assert written == [3]
    assert f"warning: second: 1 rows of {folder} were damaged" in capsys.readouterr().out
    assert losses(tmp_path / "again") == pytest.approx(losses(tmp_path / "run"), abs=1e-6, rel=0)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def open_bracket(path: Path) -> None:
    """In the header, which NumPy reads with Python's own parser."""
    path.write_bytes(path.read_bytes().replace(b"), }", b"(, }", 1))


@pytest.mark.parametrize(
    ("name", "spoil", "said"),
    [
        (TARGET, cut, r"t\.pooled\.npy has [\d,]+ bytes of \[64, 16\] float32 instead of"),
        (TARGET, Path.unlink, r"t\.pooled\.npy: No such file"),
        (TARGET, open_bracket, r"t\.pooled\.npy is no \.npy file"),
        (TARGET, pipe, r"t\.pooled\.npy is no regular file"),
        ("cache.json", pipe, r"cache\.json is no regular file"),
        ("rows.npy", lambda path: path.write_bytes(b"nothing"), r"rows\.npy is no \.npy file"),
        ("cache.json", cut, r"cache\.json cannot be read"),
    ],
)
def test_a_damaged_cache_is_refused_in_a_sentence(
    path: Path, name: str, spoil: Callable[[Path], None], said: str, tmp_path: Path, run: Run
) -> None:
    spoil(tmp_path / "cache" / "second" / name)
    with pytest.raises(UserError, match=f"damaged or none .{said}.*remove the folder") as error:
        run(path, *again(tmp_path))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "again" / "metrics.jsonl").exists()  # before the first stage


@pytest.mark.parametrize(
    ("make", "folder", "said"),
    [
        (Path.touch, "place", r"could not read the teacher cache .*/place/second.*Not a directory"),
        (lambda place: place.symlink_to("gone/x"), "place", r"not make .*/place/second: .* cannot"),
        (Path.mkdir, "place/below", r"not make .*/place/below/second: .*/place cannot be written"),
        (Path.mkdir, "again/checkpoints", r"among the checkpoints of the run .*/again"),
        (Path.mkdir, "run/checkpoints", r"among the checkpoints of the run .*/run"),
        (Path.mkdir, "cache/second", r"is no teacher cache, for it holds step-000001 and no cache"),
    ],
)
def test_a_cache_that_cannot_be_made_is_refused_before_the_first_stage(
    path: Path,
    make: Callable[[Path], None],
    folder: str,
    said: str,
    tmp_path: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make(tmp_path / "place")
    (tmp_path / "cache" / "second" / "second" / "step-000001").mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda *_: False)  # as for one who may not write there
    place = f"stages.second.teacher_cache.folder={tmp_path / folder}"
    with pytest.raises(UserError, match=said) as error:
        run(path, *again(tmp_path), place)
    assert "give another" in str(error.value) and "remove" not in str(error.value)
    assert not (tmp_path / "again" / "metrics.jsonl").exists()


def test_a_finished_stage_needs_no_cache(path: Path, tmp_path: Path, run: Run) -> None:
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").touch()
    run(path, *cached(tmp_path))


@pytest.mark.parametrize("lacking", [0, 10])
def test_a_cache_that_may_only_be_read_serves_what_it_has(
    path: Path,
    lacking: int,
    tmp_path: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, whole = tmp_path / "cache" / "second", os.open
    sums = np.load(folder / "rows.npy", mmap_mode="r+")
    sums[:lacking] = 0
    sums.flush()
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def forbidden(file: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_RDWR and Path(file).parent == folder:
            raise PermissionError(13, "Permission denied", file)
        return whole(file, flags, *rest, **more)

    monkeypatch.setattr(os, "open", forbidden)
    run(path, *again(tmp_path))
    assert before == {file.name: file.read_bytes() for file in folder.iterdir()}
    assert losses(tmp_path / "again") == pytest.approx(losses(tmp_path / "run"), abs=1e-6, rel=0)
    told = f"warning: second: the teacher cache {folder} cannot be written (Permission denied): 10"
    assert (f"{told} of 64 clips are not in it" in capsys.readouterr().out) == bool(lacking)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_fill_one_cache(path: Path, parallel: str, tmp_path: Path, run: Run) -> None:
    kept = TargetStore(tmp_path / "cache" / "second").read(range(64))
    shutil.move(tmp_path / "cache", tmp_path / "one")
    overrides = [*again(tmp_path), f"train.parallel={parallel}", "stages.second.steps=20"]
    log = tmp_path / "log"
    ends = tiny.start_ranks(path, overrides, world=2, output=log)
    assert [end.exitcode for end in ends] == [0, 0], log.read_text()
    found = TargetStore(tmp_path / "cache" / "second").read(range(64))
    assert bool(found[1].all())
    torch.testing.assert_close(found[0], kept[0], atol=2e-2, rtol=0)  # of teachers trained alike
    assert losses(tmp_path / "again") == pytest.approx(losses(tmp_path / "run"), abs=1e-2)


def test_the_run_folder_says_where_the_cache_is_without_an_absolute_path(
    path: Path, tmp_path: Path
) -> None:
    stored = load_experiment(tmp_path / "run" / "config.yaml", shapes=False).config
    cache = stored.stages["second"].teacher_cache
    assert cache is not None and cache.folder == "../cache"


# what is kept


def test_what_is_kept_is_what_losses_read_of_teachers() -> None:
    assert settled_targets(mvd().spec) == {"it.target": (32, 32), "vt.target": (32, 32)}
    assert settled_targets(mvd(video_weight=0.0).spec) == {"it.target": (32, 32)}
    assert settled_targets(mimco().spec) == {"tp.tokens": (16, 32), "tv.pooled": (32,)}


def test_what_hangs_on_the_other_clips_of_a_batch_is_not_kept_but_what_it_reads() -> None:
    kept = settled_targets(mvd(target_norm="whiten").spec)
    assert kept == {"ij.tokens": (32, 32), "tv.tap": (32, 32)}


def test_teachers_do_not_run_where_their_targets_are_given() -> None:
    graph, batch = mvd().train(), {"video": clip()}
    targets = graph(batch, list(settled_targets(graph.spec)))
    torch.manual_seed(0)
    expected = graph(batch)
    for name in ("teacher_image", "teacher_video", "pictures", "target"):
        graph.get_submodule(name).register_forward_pre_hook(lambda *_: pytest.fail("it ran"))
    torch.manual_seed(0)
    found = graph(batch, given=targets)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_what_moves_cannot_be_kept() -> None:
    with pytest.raises(UserError, match=r"asks the frozen teacher 'teacher' about 'm\.keep'"):
        settled_targets(dmae().spec)
    with pytest.raises(UserError, match="no frozen teacher"):
        settled_targets(mae().spec)


# the experiment file

CACHE = "stages.student.teacher_cache.folder=caches"


def test_random_inputs_are_refused_with_the_keys_to_change() -> None:
    with pytest.raises(ConfigError) as error:
        load_experiment(tiny.CONFIGS / "mvd.yaml", [CACHE])
    (message,) = error.value.messages
    assert "data.window_position, data.inputs.video.scales draw anew" in message
    changes = ["data.window_position=middle", "data.inputs.video.scales=null"]
    assert message.endswith(f"set {' '.join(changes)}.")
    load_experiment(tiny.CONFIGS / "mvd.yaml", [CACHE, *changes])


def test_a_cache_without_a_name_is_refused_at_its_place() -> None:
    said = r"command line .*: stages\.student\.teacher_cache: folder must name a folder, found ''"
    with pytest.raises(ConfigError, match=said):
        load_experiment(tiny.CONFIGS / "mvd.yaml", ["stages.student.teacher_cache.folder=''"])


def test_mimco_names_every_key_of_its_own_input_alone() -> None:
    with pytest.raises(ConfigError) as error:
        load_experiment(tiny.CONFIGS / "mimco.yaml", [CACHE])
    (message,) = error.value.messages
    changes = "data.window_position=middle data.inputs.image.area=null data.inputs.image.flip=0."
    assert message.endswith(f"set {changes}")


def test_a_stage_without_settled_targets_is_refused_at_its_place() -> None:
    with pytest.raises(ConfigError, match=r"teacher_cache of 'student': node 't' asks the frozen"):
        load_experiment(tiny.CONFIGS / "dmae.yaml", [CACHE])
    with pytest.raises(ConfigError, match=r"leave data\.lengths out"):
        load_experiment(
            tiny.CONFIGS / "raven.yaml", ["stages.pretrain.teacher_cache.folder=caches"]
        )

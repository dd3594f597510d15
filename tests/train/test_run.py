"""Whole runs: stages, resume, promotion, the run folder, and how they end on an error."""

import os
import re
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import avssl.train.clips
from avssl.encoders.model import load_graph
from avssl.errors import UserError
from avssl.train.experiment import load_experiment
from avssl.train.run_folder import RunFolder, portable
from tests.train import tiny

Run = Callable[..., None]


def clips_that(act: Callable[[], None], *, before: int) -> type[tiny.TinyClips]:
    """Clips that call `act` before they give the batch number `before`, counted from 0."""

    class Acting(tiny.TinyClips):
        def batches(self, **wanted: Any):  # type: ignore[no-untyped-def]
            for number, batch in enumerate(super().batches(**wanted)):
                if number == before:
                    act()
                yield batch

    return Acting


def interrupt() -> None:
    """What Ctrl-C does."""
    os.kill(os.getpid(), signal.SIGINT)


def test_stages_run_in_order_and_finished_ones_are_skipped(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny.write(tmp_path)
    run(path)
    rows = tiny.metrics(tmp_path / "run")
    expected = [("first", step) for step in range(1, 13)]
    expected += [(stage, step) for stage in ("second", "second.2") for step in range(1, 7)]
    assert [(row["stage"], row["step"]) for row in rows] == expected
    assert all("update/audio" in row for row in rows if row["step"] % 4 == 0)
    assert rows[0]["momentum/teacher"] == pytest.approx(0.9)
    assert rows[11]["momentum/teacher"] == pytest.approx(1.0)
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    capsys.readouterr()
    run(path)
    assert "first: finished earlier (12 steps)" in capsys.readouterr().out
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_students_are_promoted_to_teachers_and_start_afresh(tmp_path: Path, run: Run) -> None:
    run(tiny.write(tmp_path))
    stages = {
        name: tiny.weights(tmp_path / "run", name) for name in ("first", "second", "second.2")
    }
    pairs = [("first", "second"), ("second", "second.2")]
    for before, after in pairs:
        students = {k: v for k, v in stages[before].items() if k.startswith("audio.")}
        assert len(students) > 20
        for key, value in students.items():
            assert torch.equal(stages[after]["teacher" + key.removeprefix("audio")], value), key
    name = "audio.encoder.blocks.0.attn.qkv.weight"
    assert not torch.equal(stages["second"][name], stages["second.2"][name])


def test_a_run_that_was_asked_to_end_continues_bit_for_bit(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tiny.write(tmp_path / "whole"))
    monkeypatch.setattr(avssl.train.clips, "open_clips", clips_that(interrupt, before=7))
    path = tiny.write(tmp_path / "parts")
    folder = tmp_path / "parts" / "run"
    run(path)
    assert [row["step"] for row in tiny.metrics(folder)] == list(range(1, 9))
    assert (folder / "checkpoints" / "first" / "step-000008").is_dir()
    with (folder / "metrics.jsonl").open("a") as file:  # what a kill would leave behind
        file.write('{"stage": "first", "step": 9, "loss": 1.0}\n{"stage": "fir')
    run(path)
    assert tiny.metrics(folder) == tiny.metrics(tmp_path / "whole" / "run")
    for stage in ("first", "second", "second.2"):
        a, b = tiny.weights(folder, stage), tiny.weights(tmp_path / "whole" / "run", stage)
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_loss_that_is_not_finite_is_named_and_earlier_results_stay(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Spoilt(tiny.TinyClips):
        def __init__(self, config: object, world: object) -> None:
            super().__init__(config, world)
            self.spoilt_step = 6

    monkeypatch.setattr(avssl.train.clips, "open_clips", Spoilt)
    with pytest.raises(UserError, match="loss match is not finite at step 7"):
        run(tiny.write(tmp_path))
    assert [row["step"] for row in tiny.metrics(tmp_path / "run")] == list(range(1, 7))
    saved = tiny.weights(tmp_path / "run", "first")
    assert all(tensor.isfinite().all() for tensor in saved.values())


def test_a_gradient_that_is_not_finite_is_named(tmp_path: Path, run: Run) -> None:
    broken = tiny.STUDENT.replace("temperature: 0.2", "temperature: 1.0e-39")
    with pytest.raises(UserError, match=r"(loss match|gradient of .*) is not finite at step 1"):
        run(tiny.write(tmp_path, student=broken), "stages.first.steps=2")


def test_another_configuration_is_refused_and_what_differs_is_named(
    tmp_path: Path, run: Run
) -> None:
    path = tiny.write(tmp_path)
    run(path, "stages.second.steps=2")
    with pytest.raises(UserError, match=r"train\.lr is 0\.01 there and 0\.02 here"):
        run(path, "stages.second.steps=2", "train.lr=0.02")
    with pytest.raises(UserError, match=r"stages\.second\.repeat is 2 there and 3 here"):
        run(path, "stages.second.steps=2", "stages.second.repeat=3")
    changed = tiny.STUDENT.replace("start: 0.9,", "start: 0.5,")
    tiny.write(tmp_path, student=changed)
    with pytest.raises(UserError, match=r"student\.yaml: .*momentum\.start is 0\.9 there and 0\.5"):
        run(path, "stages.second.steps=2")
    tiny.write(tmp_path, student="# a comment more\n" + tiny.STUDENT)
    run(path, "stages.second.steps=2", "data.workers=3", "train.log_every=1", "train.save_every=9")


def test_other_clips_are_refused_when_a_run_is_continued(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny.write(tmp_path)
    monkeypatch.setattr(avssl.train.clips, "open_clips", clips_that(interrupt, before=2))
    run(path)
    monkeypatch.setattr(tiny.TinyClips, "fingerprint", "63 (less)")
    with pytest.raises(UserError, match=r"first was started on the train clips 64 \(tiny\) and"):
        run(path)


def test_an_empty_split_is_found_before_training(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class WithoutTest(tiny.TinyClips):
        def require(self, splits: Sequence[str]) -> None:
            if "test" in splits:
                raise UserError("no test clips")

    path = tiny.write(tmp_path)
    monkeypatch.setattr(avssl.train.clips, "open_clips", WithoutTest)
    towers = "probe.towers={audio: audio.pooled}"
    short = ["stages.second.steps=1", "stages.second.repeat=1"]
    with pytest.raises(UserError, match="no test clips"):
        run(path, towers, *short)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    run(path, towers, "probe.final=false", *short)
    assert not (tmp_path / "run" / "results.json").exists()
    monkeypatch.setattr(avssl.train.clips, "open_clips", tiny.TinyClips)
    run(path, towers, *short)  # the table that was left out
    assert (tmp_path / "run" / "results.json").is_file()


def test_unreadable_clips_are_counted_and_listed(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Damaged(tiny.TinyClips):
        def batches(self, **wanted: Any):  # type: ignore[no-untyped-def]
            for number, batch in enumerate(super().batches(**wanted)):
                yield batch | {"failures": [("cat/a.mp4", "is empty")] if number == 1 else []}

    monkeypatch.setattr(avssl.train.clips, "open_clips", Damaged)
    run(tiny.write(tmp_path), "stages.first.steps=3", "stages.second.steps=1")
    rows = [row for row in tiny.metrics(tmp_path / "run") if row["stage"] == "first"]
    assert [row["unreadable"] for row in rows] == [0, 1, 0]
    assert rows[1]["unreadable_clips"] == [["cat/a.mp4", "is empty"]]
    assert "unreadable in training, replaced" in (tmp_path / "run" / "card.md").read_text()


def test_a_graph_loads_without_the_stages_it_was_made_from(tmp_path: Path, run: Run) -> None:
    run(tiny.write(tmp_path))
    folder = tmp_path / "run"
    expected = load_graph(folder).state_dict()
    shutil.rmtree(folder / "checkpoints" / "first")
    shutil.rmtree(folder / "checkpoints" / "second")
    found = load_graph(folder).state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in found)


def test_a_run_that_never_trained_may_change(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(config: object, world: object) -> None:
        raise UserError("no such folder")

    path = tiny.write(tmp_path)
    monkeypatch.setattr(avssl.train.clips, "open_clips", missing)
    with pytest.raises(UserError, match="no such folder"):
        run(path, "data.source=typo")
    monkeypatch.setattr(avssl.train.clips, "open_clips", tiny.TinyClips)
    run(path, "stages.first.steps=1", "stages.second.steps=1", "stages.second.repeat=1")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("name: of another program\n")
    with pytest.raises(UserError, match="holds another configuration"):
        run(path, f"run={tmp_path / 'other'}")


def test_a_damaged_early_stage_leaves_later_figures(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny.write(tmp_path)
    run(path)
    before = tiny.metrics(tmp_path / "run")
    for model in (tmp_path / "run" / "checkpoints" / "first").rglob("model.safetensors"):
        content = bytearray(model.read_bytes())
        content[-1] ^= 1
        model.write_bytes(content)
    capsys.readouterr()
    run(path)
    out, err = capsys.readouterr()
    assert err.count("step-000012 is damaged") == 1 and "is damaged" not in out
    after = tiny.metrics(tmp_path / "run")
    assert sorted(map(str, after)) == sorted(map(str, before))


def test_the_source_is_kept_relative_to_the_run_folder(tmp_path: Path) -> None:
    path = tiny.write(tmp_path)
    for source in (tmp_path / "clips", Path(os.path.relpath(tmp_path / "clips"))):
        config = load_experiment(path, [f"data.source={source}"]).config
        assert portable(config, {})["data"]["source"] == os.path.join("..", "clips")
    config = load_experiment(path, ["data.source=corpus:scenes"]).config
    assert portable(config, {})["data"]["source"] == "corpus:scenes"


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path, run: Run) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not empty and not a run folder"):
        run(tiny.write(tmp_path))
    assert [item.name for item in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_a_run_killed_while_its_folder_was_made_starts(tmp_path: Path) -> None:
    experiment = load_experiment(tiny.write(tmp_path))
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    (folder.path / ".config.yaml.tmp").write_text("name: ti")
    folder.claim(experiment.config, experiment.graphs, experiment.files)
    copies = sorted(folder.path.rglob("*.yaml"))
    assert len(copies) == 4
    (folder.path / "towers" / "vit_audio.yaml").unlink()
    folder.claim(experiment.config, experiment.graphs, experiment.files)
    assert sorted(folder.path.rglob("*.yaml")) == copies


def test_the_run_folder_stands_alone(tmp_path: Path, run: Run) -> None:
    path = tiny.write(tmp_path)
    run(path, "probe.towers={audio: audio.pooled}", "probe.every=6", "probe.pictures=true",
        "stages.second.steps=2", "stages.second.repeat=1")  # fmt: skip
    folder = tmp_path / "run"
    for name in ("config.yaml", "metrics.jsonl", "card.md", "results.json", "results.md"):
        assert (folder / name).is_file(), name
    assert list((folder / "tensorboard").rglob("events*"))
    assert (folder / "pictures" / "curves.png").is_file()
    for file in folder.rglob("*"):
        if file.suffix in (".yaml", ".json", ".jsonl", ".md"):
            assert not re.search(r"(?<![\w.])/(?:\w+/)+", file.read_text()), file
    moved = folder.rename(tmp_path / "moved")
    for graph in (tmp_path / "configs").rglob("*.yaml"):
        graph.unlink()
    again = load_experiment(moved / "config.yaml")
    assert [item.name for item in again.instances] == ["first", "second"]
    probes = [row for row in tiny.metrics(moved) if "knn/audio" in row]
    assert [(row["stage"], row["step"]) for row in probes] == [
        ("first", 0), ("first", 6), ("first", 12), ("second", 0), ("second", 2)]  # fmt: skip


def test_probes_do_not_change_the_training(tmp_path: Path, run: Run) -> None:
    run(tiny.write(tmp_path / "a"), "stages.second.steps=1")
    run(tiny.write(tmp_path / "b"), "stages.second.steps=1", "probe.towers={audio: audio.pooled}",
        "probe.every=2", "probe.final=false")  # fmt: skip
    trained = [row for row in tiny.metrics(tmp_path / "b" / "run") if "loss" in row]
    assert trained == tiny.metrics(tmp_path / "a" / "run")


def test_a_loader_that_dies_with_the_run_does_not_cost_the_checkpoint(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM often goes to the whole process group, loader processes included."""

    def die() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # as `timeout` does
        raise UserError("a loader process ended unexpectedly")

    monkeypatch.setattr(avssl.train.clips, "open_clips", clips_that(die, before=4))
    run(tiny.write(tmp_path), "train.save_every=100")
    assert (tmp_path / "run" / "checkpoints" / "first" / "step-000004").is_dir()


def test_two_processes_cannot_train_in_one_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with folder.held(), pytest.raises(UserError, match="another process trains in"):
        with folder.held():
            pass
    with folder.held():  # free again
        pass


@pytest.mark.parametrize("name", ["file", "file/below", "x" * 300])
def test_a_run_folder_that_cannot_be_is_a_sentence(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="give another one"), RunFolder(tmp_path / name).held():
        pass

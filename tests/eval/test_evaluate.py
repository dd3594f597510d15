"""tools/evaluate.py from a trained run to its files, on sounds whose class can be heard."""

import json
import re
import runpy
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import avssl
from avssl.data import dataset
from avssl.data.container import MediaError
from avssl.data.labels import LabelFiles
from avssl.errors import UserError
from avssl.eval.evaluation import Evaluated, Options, evaluate
from avssl.eval.sheets import notes, write
from avssl.eval.untrained import untrained

ROOT = Path(__file__).parents[2]
CLASSES = {"low": 200, "middle": 800, "high": 3000}  # Hz
SECONDS = 3.0


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 tones of 3 s in a manifest with splits, and a file that is no sound."""
    folder = tmp_path_factory.mktemp("sounds")
    random = np.random.default_rng(0)
    rows = ["path,label,split,fold"]
    times = np.arange(int(SECONDS * 16000)) / 16000
    for number in range(36):
        label = list(CLASSES)[number % 3]
        pitch = CLASSES[label] * random.uniform(0.9, 1.1)
        wave = 0.3 * np.sin(2 * np.pi * pitch * times) + 0.01 * random.standard_normal(len(times))
        soundfile.write(folder / f"{number:02d}.wav", wave.astype(np.float32), 16000)
        split = "test" if number % 4 == 3 else "train"
        rows.append(f"{number:02d}.wav,{label},{split},{number % 4}")
    (folder / "broken.wav").write_bytes(b"no sound")
    rows.append("broken.wav,low,test,0")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVSSL_CACHE", str(tmp_path / "cache"))


def measure(run: Path, sounds: Path, **changes: object) -> Evaluated:
    options = {"model": str(run), "task": "linear", "data": str(sounds), "workers": 0}
    return evaluate(Options(**{**options, **changes}))  # type: ignore[arg-type]


def test_linear_probe_of_sounds(run: Path, sounds: Path, tmp_path: Path) -> None:
    found = measure(run, sounds, untrained=True)
    assert set(found.scores) == {"trained", "untrained"}
    assert set(found.scores["trained"]) == {"audio"}  # the clips have no picture
    one = found.scores["trained"]["audio"]
    assert one.figures["top1"] > 0.8 > one.majority["top1"]
    assert (one.fitted, one.scored, found.counts["scored"].used) == (27, 9, 9)
    assert [path for path, _ in found.counts["scored"].left_out] == ["broken.wav"]
    assert "broken.wav" in "\n".join(notes(found))
    out = tmp_path / "out"
    write(found, out)
    names = {path.name for path in out.iterdir()}
    assert names == {
        "results.json", "results.md", "classes_audio.csv", "confusion_audio.json",
        "confusion_audio.csv", "confusion_audio.png", "tsne_audio.png",
    }  # fmt: skip
    record = json.loads((out / "results.json").read_text())
    assert record["models"]["trained"]["linear"]["audio"]["figures"] == one.figures
    assert record["clips"]["scored"]["left_out"][0][0] == "broken.wav"
    assert str(sounds.parent) not in (out / "results.json").read_text()
    assert "broken.wav" in (out / "results.md").read_text()


@pytest.mark.parametrize("task", ["knn", "linear"])
def test_a_fold_is_scored_as_a_split_of_the_same_clips(run: Path, sounds: Path, task: str) -> None:
    one = measure(run, sounds, folds="fold", task=task).scores["trained"]["audio"]
    split = measure(run, sounds, task=task)  # the test split is fold 3, and the broken clip
    assert len(one.folds) == 4 and one.scored == 36 and one.fitted == 27
    assert one.folds["fold 3"] == split.scores["trained"]["audio"].figures
    shares = [fold["top1"] for fold in one.folds.values()]
    assert one.figures["top1"] == pytest.approx(statistics.fmean(shares))
    assert one.spread["top1"] == pytest.approx(statistics.stdev(shares))


def test_scored_clips_of_classes_that_were_not_fitted_to_are_told(run: Path, sounds: Path) -> None:
    text = (sounds / "manifest.csv").read_text()
    for number in ("03", "07"):
        text = re.sub(rf"{number}.wav,\w+,", f"{number}.wav,strange,", text)
    (sounds / "strange.csv").write_text(text)
    lines = notes(measure(run, sounds / "strange.csv", task="knn"))
    assert lines[0].startswith("2 of 9 scored clips are of classes that no clip was fitted to")
    assert "fitted to" not in "\n".join(notes(measure(run, sounds, task="knn")))


def test_a_clip_of_which_a_window_cannot_be_read_is_left_out_and_named(
    run: Path, sounds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = dataset.read_clip_sound

    def fails(path: Path, *rest: object, start: float, **more: object) -> object:
        if path.name == "03.wav" and start > 1.5:  # its last window of three
            raise MediaError("torn")
        return read(path, *rest, start=start, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("avssl.data.dataset.read_clip_sound", fails)
    found = measure(run, sounds, span="all", task="knn")
    assert found.counts["scored"].unreadable == [("03.wav", "torn")]
    assert found.scores["trained"]["audio"].scored == 8
    assert 3 not in found.features.clips


def test_the_folder_of_a_run_is_refused_and_so_is_that_of_another_model(
    run: Path, sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(*words: object) -> None:
        command = ["x", run, "--data", sounds, "--workers", "0", *words]
        monkeypatch.setattr(sys, "argv", list(map(str, command)))
        runpy.run_path(str(ROOT / "tools" / "evaluate.py"))["main"]()

    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    with pytest.raises(UserError, match="is neither empty nor an evaluation's"):
        call("--task", "knn", "--out", run)
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    out = tmp_path / "out"
    call("--task", "knn", "--out", out)
    assert (out / "tsne_audio.png").is_file()
    call("--task", "knn", "--out", out, "--picture", "none")
    assert not (out / "tsne_audio.png").exists() and (out / "confusion_audio.png").is_file()
    with pytest.raises(UserError, match="of another model"):
        call("--task", "knn", "--out", out, "--stage", "stage1")


def test_untrained_is_the_architecture_under_the_seed(run: Path) -> None:
    loaded = avssl.load(run)
    fresh = [untrained(loaded, seed=seed).audio.state_dict() for seed in (0, 0, 1)]
    trained = loaded.audio.state_dict()
    assert fresh[0].keys() == trained.keys()

    def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
        return all(torch.equal(a[key], b[key]) for key in a)

    assert same(fresh[0], fresh[1])
    assert not same(fresh[0], fresh[2]) and not same(fresh[0], trained)


def test_the_whole_clip_is_the_mean_of_its_windows(run: Path, sounds: Path) -> None:
    found = measure(run, sounds, span="all")
    audio = avssl.load(run).audio
    paths = [str(sounds / f"{row:02d}.wav") for row in range(3)]
    with torch.no_grad():
        expected = audio(paths, span="all")
    torch.testing.assert_close(found.features["audio"][:3], expected, rtol=1e-3, atol=1e-4)


def test_layers_are_counted_from_the_embeddings(run: Path, sounds: Path) -> None:
    outputs = [measure(run, sounds, layer=layer).features["audio"] for layer in (0, 1, 2)]
    assert not torch.allclose(outputs[0], outputs[1])
    with pytest.raises(UserError, match="layers 0"):
        measure(run, sounds, layer=9)


def test_retrieval_needs_both_streams(run: Path, sounds: Path) -> None:
    with pytest.raises(UserError, match="sound and a picture encoder, found audio"):
        measure(run, sounds, task="retrieval")


def test_an_unknown_encoder_is_named(run: Path, sounds: Path) -> None:
    with pytest.raises(UserError, match="'sound'"):
        measure(run, sounds, encoders=["sound"])


def test_clips_that_turn_unreadable_are_named_and_not_replaced(
    run: Path, sounds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = dataset.read_clip_sound

    def fails(path: Path, *rest: object, **more: object) -> object:
        if path.name in ("03.wav", "08.wav"):
            raise MediaError("torn")
        return read(path, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("avssl.data.dataset.read_clip_sound", fails)
    found = measure(run, sounds)
    assert found.counts["scored"].unreadable == [("03.wav", "torn")]
    assert found.counts["fitted"].unreadable == [("08.wav", "torn")]
    one = found.scores["trained"]["audio"]
    assert (one.fitted, one.scored) == (26, 8)


def test_published_labels_name_what_has_no_file(run: Path, sounds: Path, tmp_path: Path) -> None:
    rows = [f"{i:02d}.wav,{1 + i % 5},0,{list(CLASSES)[i % 3]},True" for i in range(36)]
    rows.append("gone.wav,1,0,low,True")
    (tmp_path / "esc50.csv").write_text("\n".join(["filename,fold,target,category,esc10", *rows]))
    labels = LabelFiles([str(tmp_path / "esc50.csv")], "esc10")
    found = measure(run, sounds, labels=labels, folds="fold", task="knn")
    assert found.clips.missing == ["gone"]
    assert "1 listed clips have no file" in notes(found)
    one = found.scores["trained"]["audio"]
    assert len(one.folds) == 5 and one.scored == 36
    alone = measure(run, sounds, labels=labels, task="knn")
    split = alone.scores["trained"]["audio"]
    assert (split.fitted, split.scored) == (29, 7)  # the fifth fold is the test split
    told = "of 5 folds, fold 5 alone is scored (the split test): --folds scores each"
    assert told in notes(alone) and told not in notes(found)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ("--task linear --format esc50", "--labels and --format go together"),
        ("--task linear --classes names.txt", "--classes chooses among those of --labels"),
        ("--task linear --split train", "--fit and --split are both train"),
        ("--task knn --split all", "--split all is for retrieval"),
        ("--task retrieval --folds", "--folds belongs to linear and knn"),
        ("--task retrieval --fit train", "--fit belongs to linear and knn"),
        ("--task retrieval --picture tsne", "--picture belongs to linear and knn"),
        ("--task knn --folds --fit train", "--fit has no place beside --folds"),
        ("--task knn --folds --split test", "--split has no place beside --folds"),
        ("--task knn --picture umap", "--picture umap needs a folder"),
        ("--task knn --span all --clips 2", "--span all takes .* give one of them"),
        ("--task finetune --clips 2", "--clips does not belong to --task finetune"),
        ("--task linear train.lr=1", "train.lr=1 does not belong to --task linear"),
        ("--task finetune --seed 1", "--seed does not belong to --task finetune"),
        ("--task finetune train.lr=1", "needs --config"),
        ("--task linear --data DATA --out FILE/below", "cannot write in"),
        ("--task linear --data none", "'none' is neither a folder nor a manifest"),
    ],
)
def test_mistakes_are_one_sentence(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, sentence: str
) -> None:
    (tmp_path / "file").write_text("")
    words = arguments.replace("FILE", str(tmp_path / "file")).split()
    monkeypatch.setattr(sys, "argv", ["evaluate.py", str(run), "--data", "none", *words])
    with pytest.raises(UserError, match=sentence):
        runpy.run_path(str(ROOT / "tools" / "evaluate.py"))["main"]()


def test_the_command_line_reaches_the_figures(
    run: Path, sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    words = "--task knn --folds --untrained --layer 1 --picture none --workers 0 --out"
    monkeypatch.setattr(
        sys, "argv", ["x", str(run), "--data", str(sounds), *words.split(), str(tmp_path / "out")]
    )
    runpy.run_path(str(ROOT / "tools" / "evaluate.py"))["main"]()
    printed = capsys.readouterr().out
    assert "| trained | audio |" in printed and "broken.wav" in printed
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert record["options"]["layer"] == 1 and len(record["classes"]) == 3

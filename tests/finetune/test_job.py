"""A whole fine-tuning: results, folds, going on, and what a user gets wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

import avssl.finetune
from avssl.data.config import DataConfig, FbankConfig
from avssl.data.manifest import Clip, Manifest
from avssl.data.source import open_source
from avssl.errors import ConfigError, UserError
from avssl.finetune import job, loop
from avssl.finetune.config import Finetune
from avssl.train.signals import StopRequest

File = Callable[..., Path]
WEIGHTS = "model.safetensors"


def finetune(model: Path, source: Path, file: Path, *overrides: str) -> dict[str, Any]:
    return avssl.finetune.run(model, source=str(source), config=file, overrides=overrides)


@pytest.fixture
def result(tmp_path: Path) -> Path:
    return tmp_path / "result"


def losses(part: Path) -> list[float]:
    rows = (part / "metrics.jsonl").read_text().splitlines()
    return [json.loads(row)["loss"] for row in rows]


def test_low_and_high_tones_are_told_apart(
    model: Path, tones: Path, file: File, result: Path
) -> None:
    found = finetune(model, tones, file(), "train.epochs=15", "train.save_every=5")
    assert found["summary"]["top1"]["mean"] == 1.0
    assert found == json.loads((result / "results.json").read_text())
    (part,) = found["parts"]
    assert (part["clips"], part["train_clips"], part["steps"]) == (8, 16, 60)
    assert part["per_class"]["high"] == {"clips": 4, "figure": 1.0}
    assert "| 0 | - | 16 | 8 | 100.0 | 100.0 |" in (result / "results.md").read_text()
    assert not (result / "seed0" / "checkpoints").exists()
    weights = load_file(result / "seed0" / WEIGHTS)
    assert weights["head.linear.weight"].shape == (2, 16)
    assert len(losses(result / "seed0")) == 60
    assert str(tones) not in "".join(path.read_text() for path in result.glob("*.*"))


def test_held_out_clips_of_classes_that_are_not_learned_are_told(
    model: Path, tones: Path, file: File, result: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (tones / "manifest.csv").read_text()
    for number in ("03", "07"):
        text = re.sub(rf"{number}.wav,\w+,", f"{number}.wav,strange,", text)
    (tones / "strange.csv").write_text(text)
    (part,) = finetune(model, tones / "strange.csv", file(), "train.epochs=1")["parts"]
    told = "2 of 8 scored clips are of classes that no clip was fitted to"
    assert part["unknown"] == 2
    assert f"seed0: {told}" in capsys.readouterr().out.split("step")[0]
    assert told in (result / "results.md").read_text()
    finetune(model, tones, file(), f"run={result}2", "train.epochs=1")
    assert "fitted to" not in capsys.readouterr().out + Path(f"{result}2/results.md").read_text()


@pytest.mark.parametrize("name", ["audio", "audio_video"])
def test_a_classifier_comes_back(
    model: Path, clips: Path, file: File, result: Path, tmp_path: Path, name: str
) -> None:
    longer = ["args.audio.frames=96", "data.inputs.audio.frames=96", "data.window=1.0"]
    found = finetune(model, clips, file(), f"encoder={name}", *longer, "train.epochs=4")
    moved = tmp_path / "elsewhere"
    (result / "seed0").rename(moved)
    classify = avssl.finetune.load(moved)
    assert classify.classes == ["high", "low"]
    held_out = sorted(clips.glob("*.mp4"))[:8]
    probabilities = classify(held_out, span="middle")
    assert torch.allclose(probabilities.sum(1), torch.ones(8))
    right = [classify.classes[i] == ("low", "high")[n % 2] for n, i in
             enumerate(probabilities.argmax(1).tolist())]  # fmt: skip
    assert np.mean(right) == pytest.approx(found["summary"]["top1"]["mean"])
    encoder = avssl.load(moved, module=name)
    assert encoder.inputs["audio"].frames == 96  # type: ignore[union-attr]
    assert encoder.fingerprint == classify.encoder.fingerprint
    assert encoder.fingerprint != avssl.load(model, module=name).fingerprint
    with pytest.raises(UserError, match="no finished fine-tuning"):
        avssl.finetune.load(result)


def test_in_memory_and_read_each_time_agree(
    model: Path, tones: Path, file: File, result: Path
) -> None:
    """Clips that fill the window leave nothing random to reading."""
    found = []
    for number, memory in enumerate(("true", "false")):
        path = file()
        text = path.read_text().replace(str(result), f"{result}{number}")
        path.write_text(text)
        finetune(model, tones, path, f"in_memory={memory}")
        found.append(losses(Path(f"{result}{number}") / "seed0"))
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "data.window=0.5",
            r"16 of 16 clips .* 0\.5 s, such as 08\.wav with 0\.70 s.* in_memory=false",
        ),
        (
            "encoder=video data.inputs.video.seconds=0.3",
            r"video\.seconds = 0\.3 .* in_memory=false",
        ),
    ],
)
def test_in_memory_takes_no_random_places(
    model: Path, tones: Path, clips: Path, file: File, override: str, message: str
) -> None:
    source = clips if "video" in override else tones
    with pytest.raises(UserError, match=message):
        finetune(model, source, file(), *override.split())
    finetune(model, source, file(), *override.split(), "in_memory=false", "train.epochs=1")


def test_a_few_longer_clips_in_memory_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real sets hold some, such as ESC-10 four of 400."""
    data = DataConfig(window=5.0, inputs={"audio": FbankConfig()})

    def clips(longer: int) -> Manifest:
        lengths = [7.0] * longer + [5.05] * (40 - longer)
        known = {"has_audio": True, "has_video": False, "split": "train"}
        return Manifest(
            tmp_path,
            [
                Clip(f"{n}.wav", duration=seconds, sound_duration=seconds, **known)  # type: ignore[arg-type]
                for n, seconds in enumerate(lengths)
            ],
        )

    config = Finetune(name="", run="")
    job._check_memory(config, data, [clips(0)])
    assert capsys.readouterr().out == ""
    job._check_memory(config, data, [clips(2)])
    assert "2 of 40 clips to train on are longer" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"3 of 40 clips .* such as 0\.wav with 7\.00 s"):
        job._check_memory(config, data, [clips(3)])


def test_every_fold_and_seed_once(
    model: Path, tones: Path, file: File, result: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = finetune(model, tones, file(), "fold=2", "train.epochs=1")
    assert [part["fold"] for part in first["parts"]] == ["2"]
    time = (result / "seed0-fold2" / "results.json").stat().st_mtime_ns
    both = finetune(model, tones, file(), "fold=all", "seeds=[0, 5]", "train.epochs=1")
    assert [(part["seed"], part["fold"]) for part in both["parts"]] == [
        (0, "1"), (0, "2"), (0, "3"), (5, "1"), (5, "2"), (5, "3")
    ]  # fmt: skip
    assert (result / "seed0-fold2" / "results.json").stat().st_mtime_ns == time
    said = capsys.readouterr().out
    assert "seed0-fold2: finished earlier" in said and "6 of 6 done, 0:00 left" in said
    own = both["summary"]["top1"]
    values = list(own["per_seed"].values())
    assert values[0] == pytest.approx(np.mean([part["top1"] for part in both["parts"][:3]]))
    assert own["deviation"] == pytest.approx(np.std(values, ddof=1))


@pytest.mark.parametrize("average", ["null", "2"])
def test_a_stopped_part_goes_on_as_if_nothing_was(
    model: Path,
    tones: Path,
    file: File,
    result: Path,
    monkeypatch: pytest.MonkeyPatch,
    average: str,
) -> None:
    overrides = [
        "train.epochs=3", f"train.average_from={average}", "train.drop_path=0.2",
        "augment.mixup={}", "augment.time_mask=16", "mask.time=0.3",
    ]  # fmt: skip
    path = file()
    whole = Path(f"{result}-whole")
    once = finetune(model, tones, path, *overrides, f"run={whole}")
    take, seen = loop._next, []

    def stopping(batches: Iterator[dict[str, Any]], stop: StopRequest) -> dict[str, Any] | None:
        seen.append(1)
        if len(seen) == 8:
            stop.asked = 2
        return take(batches, stop)

    monkeypatch.setattr(loop, "_next", stopping)
    with pytest.raises(KeyboardInterrupt):
        finetune(model, tones, path, *overrides)
    assert not (result / "seed0" / "results.json").exists()
    assert not (result / "results.json").exists()
    monkeypatch.setattr(loop, "_next", take)
    again = finetune(model, tones, path, *overrides)
    assert losses(result / "seed0") == losses(whole / "seed0")
    assert again["summary"] == once["summary"]
    a, b = (load_file(f / "seed0" / WEIGHTS) for f in (result, whole))
    assert all(torch.equal(a[key], b[key]) for key in b)


def test_augmented_pictures_are_the_same_when_a_part_goes_on(
    model: Path, clips: Path, file: File, result: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [
        "encoder=video", "in_memory=false", "data.workers=0", "train.repeats=2", "train.epochs=2",
        "augment.erase=0.5", "augment.mixup.alpha=0.8", "augment.cutmix.probability=0.5",
        "data.inputs.video.randaugment={operations: 2, magnitude: 7, std: 0.5}",
        "data.inputs.video.area=[0.3, 1.0]", "data.inputs.video.sampling=segments",
    ]  # fmt: skip
    whole = Path(f"{result}-whole")
    finetune(model, clips, file(), *overrides, f"run={whole}")
    take, seen = loop._next, []

    def stopping(batches: Iterator[dict[str, Any]], stop: StopRequest) -> dict[str, Any] | None:
        batch = take(batches, stop)
        if batch is None:  # it was asked to end
            return None
        assert len(batch["video"]) == len(batch["target"]) == 8
        seen.append(batch["video"])
        if len(seen) == 5:
            stop.asked = 2
        return batch

    monkeypatch.setattr(loop, "_next", stopping)
    with pytest.raises(KeyboardInterrupt):
        finetune(model, clips, file(), *overrides)
    monkeypatch.setattr(loop, "_next", take)
    finetune(model, clips, file(), *overrides)
    assert losses(result / "seed0") == losses(whole / "seed0")
    first, second = seen[0].chunk(2)  # the copies of four clips
    assert all(not torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["augment.cutmix={}"], r"augment\.cutmix pastes pictures, and audio reads 'audio'"),
        (["augment.erase=0.25"], r"augment\.erase is for pictures, and audio reads none"),
        (["train.repeats=2"], r"train\.repeats = 2 reads it more often"),
    ],
)
def test_augmentation_that_cannot_be_is_refused(
    model: Path, tones: Path, file: File, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        finetune(model, tones, file(), *overrides)


def test_a_damaged_checkpoint_is_named_when_its_part_goes_on(
    model: Path,
    tones: Path,
    file: File,
    result: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    take = loop._next

    def stopping(batches: Iterator[dict[str, Any]], stop: StopRequest) -> dict[str, Any] | None:
        stop.asked = 2
        return take(batches, stop)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "_next", stopping)
        finetune(model, tones, file(), "train.epochs=1")
    (saved,) = result.rglob("step-*/model.safetensors")
    saved.write_bytes(b"damaged")
    finetune(model, tones, file(), "train.epochs=1")
    assert f"checkpoint {saved.parent.name} is damaged" in capsys.readouterr().err


def test_averaged_weights(model: Path, tones: Path, file: File, result: Path) -> None:
    """The mean of the ends of epochs 2 and 3, which runs of 2 and 3 epochs without decay show."""
    constant = ["train.schedule={type: steps, start: 99}"]
    ends = []
    for epochs in (2, 3):
        run = f"{result}{epochs}"
        finetune(model, tones, file(), *constant, f"train.epochs={epochs}", f"run={run}")
        ends.append(load_file(Path(run) / "seed0" / WEIGHTS))
    finetune(model, tones, file(), *constant, "train.epochs=3", "train.average_from=2")
    mean = load_file(result / "seed0" / WEIGHTS)
    for key, value in mean.items():
        assert torch.allclose(value, (ends[0][key] + ends[1][key]) / 2, atol=1e-6), key


def test_several_labels(model: Path, tones: Path, file: File, tmp_path: Path) -> None:
    folder = tmp_path / "multi"
    folder.mkdir()
    lines = (tones / "manifest.csv").read_text().splitlines()
    for name in tones.glob("*.wav"):
        (folder / name.name).symlink_to(name)
    several = [lines[0], *(line.replace(",low,", ",low;tone,") for line in lines[1:])]
    (folder / "manifest.csv").write_text("\n".join(several) + "\n")
    found = finetune(
        model, folder, file("labels: multi"), "train.epochs=15", "train.balanced=true",
        "train.epoch_clips=20", "train.label_smoothing=0.1",
    )  # fmt: skip
    assert found["about"]["classes"] == 3
    assert found["summary"]["mAP"]["mean"] == pytest.approx(1.0)
    assert set(found["summary"]) == {"mAP"}
    with pytest.raises(UserError, match="set labels=multi"):
        finetune(model, folder, file(), f"run={tmp_path / 'other'}")


def test_another_configuration_is_refused(
    model: Path, tones: Path, file: File, result: Path, tmp_path: Path
) -> None:
    finetune(model, tones, file(), "train.epochs=1")
    with pytest.raises(UserError, match=r"train\.lr is 0\.01 there and 0\.5 here"):
        finetune(model, tones, file(), "train.epochs=1", "train.lr=0.5")
    with pytest.raises(UserError, match="from_scratch is False there and True here"):
        finetune(model, tones, file(), "train.epochs=1", "from_scratch=true")
    finetune(model, tones, file(), "train.epochs=1", "train.log_every=1", "data.workers=1")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").touch()
    with pytest.raises(UserError, match=r"holds notes\.txt"):
        finetune(model, tones, file(), f"run={tmp_path / 'taken'}")
    stored = yaml.safe_load((result / "finetune.yaml").read_text())
    assert stored["train"]["layer_decay"] == 1.0 and stored["run"] == "."


@pytest.fixture
def spoil(tones: Path, tmp_path: Path) -> Callable[..., Path]:
    """`spoil(0, 9)` copies the tones and damages these, as no scan finds out."""

    def copy(*numbers: int) -> Path:
        folder = tmp_path / "damaged"
        shutil.copytree(tones, folder)
        open_source(DataConfig(source=str(folder), workers=0))
        for number in numbers:
            path = folder / f"{number:02d}.wav"
            before = path.stat()
            path.write_bytes(bytes(before.st_size))
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        return folder

    return copy


@pytest.mark.parametrize("memory", ["true", "false"])
def test_damaged_clips_are_left_out_and_named(
    model: Path, spoil: Callable[..., Path], file: File, memory: str
) -> None:
    """None stands in for a held-out clip, and no share of them is too large; what cannot be read
    of the clips trained on is no failure of the test."""
    held_out, trained = (0, 1, 2, 3, 4, 5), (9,)
    folder = spoil(*held_out, *trained)
    found = finetune(
        model, folder, file(), "train.epochs=1", f"in_memory={memory}",
    )  # fmt: skip
    (part,) = found["parts"]
    assert part["clips"] == 2
    assert [path for path, _ in part["unreadable"]] == [f"{n:02d}.wav" for n in held_out]
    assert part["train_clips"] == (15 if memory == "true" else 16)


@pytest.mark.parametrize("memory", ["true", "false"])
def test_failures_belong_to_their_fold(
    model: Path, spoil: Callable[..., Path], file: File, memory: str
) -> None:
    found = finetune(
        model, spoil(0, 9), file(), "fold=all", "train.epochs=1", f"in_memory={memory}"
    )
    unread = [[path for path, _ in part["unreadable"]] for part in found["parts"]]
    assert unread == [["00.wav"], ["09.wav"], []]


@pytest.mark.parametrize(
    ("memory", "numbers", "message"),
    [
        ("true", range(8), r"none of the 8 held-out clips can be read; the first, 00\.wav: "),
        ("false", range(8), r"none of the 8 held-out clips can be read; the first, 00\.wav: "),
        ("true", range(8, 24), "none of the 16 clips to train on can be read"),
        ("true", range(24), "none of the 24 clips can be read"),
    ],
)
def test_a_side_that_cannot_be_read_is_told_before_the_training(
    model: Path,
    spoil: Callable[..., Path],
    file: File,
    result: Path,
    memory: str,
    numbers: range,
    message: str,
) -> None:
    with pytest.raises(UserError, match=message):
        finetune(model, spoil(*numbers), file(), f"in_memory={memory}")
    assert not (result / "seed0" / "metrics.jsonl").exists()


def test_held_out_clips_are_tested_in_several_views(
    model: Path, clips: Path, file: Callable[..., Path], result: Path
) -> None:
    views = "test: {clips: 2, crops: 3}"
    with pytest.raises(
        UserError, match="in_memory reads each clip once, but test asks for 6 views"
    ):
        finetune(model, clips, file(views, "held_out: test"), "encoder=video")
    found = finetune(
        model, clips, file(views), "encoder=video", "in_memory=false", "data.workers=0"
    )
    assert found["parts"][0]["clips"] == 8


def test_a_clip_on_both_sides_of_a_later_fold_is_told_at_once(
    model: Path, spoil: Callable[..., Path], file: File, result: Path
) -> None:
    manifest = spoil() / "manifest.csv"
    manifest.write_text(manifest.read_text() + "23.wav,high,2,train\n")
    with pytest.raises(UserError, match=r"1 held-out clips of fold 2 .* 23\.wav"):
        finetune(model, manifest.parent, file(), "fold=all")
    assert not result.exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("encoder=sound", "has no encoder 'sound': it has audio, video, audio_video"),
        ("fold=7", "no row has 7"),
        ("fold_column=part fold=1", "no column 'part'"),
        ("data.batch=99", "fewer than data.batch = 99"),
        ("data.inputs.audio.shift=true", r"data\.inputs\.audio\.shift changes it every time"),
        ("train.lr=1e30", "is not finite at step"),
    ],
)
def test_mistakes_are_sentences(
    model: Path, tones: Path, file: File, override: str, message: str
) -> None:
    with pytest.raises((UserError, ConfigError), match=message):
        finetune(model, tones, file(), *override.split())


def test_one_process(model: Path, tones: Path, file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="one process"):
        finetune(model, tones, file())


def test_bf16(model: Path, tones: Path, file: File, result: Path) -> None:
    finetune(model, tones, file(), "train.epochs=1", "train.precision=bf16")
    low = losses(result / "seed0")
    finetune(model, tones, file(), "train.epochs=1", "train.precision=fp32", f"run={result}32")
    full = losses(Path(f"{result}32") / "seed0")
    assert low != full and low == pytest.approx(full, rel=0.05)


def test_rates() -> None:
    from avssl.finetune.config import Cosine, Optimisation, Steps

    def rates(settings: Optimisation) -> list[float]:
        return [loop.rate_at(step, settings, peak=1.0, per_epoch=2, steps=12) for step in range(12)]

    halves = Optimisation(schedule=Steps(type="steps", start=2, every=1, factor=0.5), warmup=0.5)
    assert rates(halves) == [1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.0625, 0.0625]
    slow = Optimisation(schedule=Steps(type="steps", start=2, every=2, factor=0.5))
    assert rates(slow) == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25]
    cosine = rates(Optimisation(schedule=Cosine(min_lr=0.1), warmup=2))
    assert cosine[:4] == [0.25, 0.5, 0.75, 1.0] and cosine[-1] == pytest.approx(0.1)
    assert cosine[4:] == sorted(cosine[4:], reverse=True)


def test_smoothing() -> None:
    target = torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0]])
    found = loop.smooth(target, 0.1)
    assert found[0].tolist() == pytest.approx([0.92, 0.02, 0.02, 0.02, 0.02])
    assert torch.equal(loop.smooth(target, 0.0), target)


def test_part_names() -> None:
    assert job.Part(3, None).name == "seed3"
    assert job.Part(3, "2").name == "seed3-fold2"
    assert job.Part(3, "2").start != job.Part(3, "1").start

"""Reconstructions are right to the pixel, and every picture and report is written."""

import json
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import pytest
import torch

from avssl.eval import curves, pictures, report
from avssl.eval.features import Features
from avssl.eval.probes import Evaluation, evaluate
from avssl.ops.patches import Normalize, patchify, unpatchify

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize("normalize", ["none", "patch", "channel"])
def test_a_perfect_prediction_gives_the_input(normalize: Normalize) -> None:
    x = torch.randn(2, 3, 4, 32, 32) * 3 + 1
    patches = patchify(x, (2, 16, 16))
    mask = torch.zeros(2, 8)
    mask[:, 2:] = 1
    target = patches
    if normalize == "patch":  # unbiased variance + 1e-6, as the loss normalises its target
        target = (patches - patches.mean(-1, keepdim=True)) / (
            patches.var(-1, keepdim=True) + 1e-6
        ).sqrt()
    if normalize == "channel":
        cubes = patches.unflatten(2, (-1, 3))
        cubes = (cubes - cubes.mean(2, keepdim=True)) / (cubes.std(2, keepdim=True) + 1e-6)
        target = cubes.flatten(2)
    masked, shown = pictures.reconstruct(x, target, mask, patch=[2, 16, 16], normalize=normalize)
    assert torch.allclose(shown, x, atol=1e-5)
    assert torch.equal(masked.isnan(), unpatchify(
        mask.unsqueeze(-1).expand_as(patches), (4, 32, 32), (2, 16, 16)).bool())  # fmt: skip


def test_visible_patches_show_the_input() -> None:
    x = torch.randn(1, 1, 16, 16)
    zeros = torch.zeros(1, 4, 64)
    mask = torch.tensor([[0, 1, 1, 1]])
    _, pasted = pictures.reconstruct(x, zeros, mask, patch=[8, 8], normalize="none")
    assert torch.equal(pasted[..., :8, :8], x[..., :8, :8]) and (pasted[..., 8:, :] == 0).all()


def features(clips: int, start: int = 0) -> Features:
    generator = torch.Generator().manual_seed(start)
    x = torch.randn(clips, 8, generator=generator)
    y = x + torch.randn(clips, 8, generator=generator)
    labels = torch.arange(clips) % 4
    return Features({"audio": x, "video": y}, labels, torch.arange(start, start + clips))


def not_blank(path: Path) -> bool:
    return bool(matplotlib.image.imread(path)[..., :3].std() > 0.02)


def test_pictures_are_written(tmp_path: Path) -> None:
    audio, mask = torch.randn(3, 1, 32, 16), torch.tensor([[0, 1]] * 3)
    prediction = torch.zeros(3, 2, 256)
    parts = pictures.reconstruct(audio, prediction, mask, patch=[16, 16], normalize="patch")
    path = tmp_path / "new" / "audio.png"
    pictures.spectrogram_picture(path, audio, *parts, title="audio")
    assert not_blank(path)

    video, mask = torch.randn(1, 3, 4, 32, 32), torch.tensor([[0, 1, 1, 1, 1, 1, 1, 0]])
    prediction = torch.zeros(1, 8, 1536)
    parts = pictures.reconstruct(video, prediction, mask, patch=[2, 16, 16], normalize="patch")
    path = tmp_path / "video.png"
    pictures.video_picture(path, video, *parts, title="video", mean=MEAN, std=STD)
    assert not_blank(path)

    path = tmp_path / "similarity.png"
    pictures.similarity_picture(path, features(20), title="stage1")
    assert not_blank(path)


def test_stills_stand_side_by_side(tmp_path: Path) -> None:
    """Five pictures of one frame are one strip as wide as five frames of a clip, title and all."""
    stills, clip = torch.randn(5, 3, 1, 32, 32), torch.randn(1, 3, 5, 32, 32)
    wide, tall = tmp_path / "stills.png", tmp_path / "clip.png"
    pictures.video_picture(wide, stills, stills, stills, title="picture", mean=MEAN, std=STD)
    pictures.video_picture(tall, clip, clip, clip, title="clip", mean=MEAN, std=STD)
    assert not_blank(wide)
    assert matplotlib.image.imread(wide).shape == matplotlib.image.imread(tall).shape


def test_curves_follow_stages(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    rows = []
    for stage in ("stage1", "stage2", "stage2.2"):
        for step in range(100):
            row = {"stage": stage, "step": step, "loss": 1 / (step + 1), "lr": 1e-3}
            if step % 20 == 0:
                rows.append({"stage": stage, "step": step, "knn/audio": step / 200})
            rows.append(row | {"loss/inter": 3.0 - step / 99, "time": {"data_ms": step}})
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    series, bounds = curves.read_metrics(metrics)
    assert [stage for _, stage in bounds] == ["stage1", "stage2", "stage2.2"]
    steps = [step for step, _ in series["loss"]]
    assert steps == list(range(300))
    assert [start for start, _ in bounds] == [0, 100, 200]
    panels = curves._panels(series)  # without the times and the learning rate, which is constant
    assert panels == {
        "total loss": ["loss"],
        "loss inter": ["loss/inter"],
        "kNN accuracy (val)": ["knn/audio"],
    }
    curves.curves_picture(tmp_path / "curves.png", metrics)
    assert not_blank(tmp_path / "curves.png")


def test_report_and_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = {"untrained": evaluate(features(40, 500), features(240))}
    models["stage1"] = evaluate(features(60, 500), features(240))
    report.print_tables(models)
    report.write_results(tmp_path, models)
    text = (tmp_path / "results.md").read_text()
    assert text.strip() == capsys.readouterr().out.strip()
    assert "Retrieval among 200 test clips (a fixed draw)" in text
    assert "Retrieval among all 240 test clips" in text
    assert "| chance | 0.5 % | 2.5 % | 100.5 | 0.5 % | 2.5 % | 100.5 |" in text
    assert json.loads((tmp_path / "results.json").read_text())["stage1"]["clips"] == 240
    for block in text.split("\n\n"):
        widths = {line.count("|") for line in block.splitlines() if line.startswith("|")}
        assert len(widths) <= 1

    card = report.Card(
        name="try",
        config={"seed": 3, "data": {"source": "/home/someone/clips", "cache": Path("/tmp/cache")}},
        data={"source": "/home/someone/clips", "train clips": 60},
        stages=[report.StageSummary("stage1", "/x/graphs/a.yaml", 20, 320, 90.0, 1_500_000)],
        machine="2 CPU cores",
        versions={"torch": "2.11.0"},
        results=models,
    )
    text = report.write_card(tmp_path, card).read_text()
    assert (
        "Seed 3, on 2 CPU cores" in text and "| stage1 | a.yaml | 20 | 320 | 1.5 | 1.50 M |" in text
    )
    assert "/home" not in text and "/tmp" not in text and "/x/" not in text


def test_tables_without_what_untrained_towers_alone_have(tmp_path: Path) -> None:
    """Stages with one tower each: no retrieval, and no column of both side by side."""

    def of(*towers: str) -> Evaluation:
        fit, score = features(60, 500), features(40)
        own = [replace(x, vectors={name: x[name] for name in towers}) for x in (fit, score)]
        return evaluate(*own)

    a, b = features(1).vectors
    report.write_results(tmp_path, {"untrained": of(a, b), "first": of(a), "second": of(b)})
    text = (tmp_path / "results.md").read_text()
    assert "Retrieval" not in text and "both" not in text
    assert f"| model | linear {a} | linear {b} | kNN {a} |" in text
    assert "| second | - |" in text
    report.write_results(tmp_path, {"untrained": of(a, b), "first": of(a), "both": of(a, b)})
    assert "Retrieval" in (tmp_path / "results.md").read_text()

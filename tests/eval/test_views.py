"""Frozen features as means over several places and crops of each clip.

The films of these tests have 60 numbered pictures of 320 x 208 pixels, 2.4 s; a window is 1 s.
"""

import dataclasses
import json
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torch import Tensor

import avssl
from avssl.data import dataset
from avssl.data.container import MediaError
from avssl.data.manifest import Clip, Manifest
from avssl.data.media import read_pictures
from avssl.data.probe import probe_clip
from avssl.data.views import Views
from avssl.encoders.encoder import Encoder
from avssl.encoders.load import Encoders
from avssl.errors import UserError
from avssl.eval.encode import encode_clips
from avssl.eval.evaluation import Evaluated, Options, evaluate
from tests.data.conftest import write_media
from tests.encoders.tiny_raven import write_raven

ROOT = Path(__file__).parents[2]
RATE, PICTURES, WINDOW = 25, 60, 1.0
SPARE = PICTURES / RATE - WINDOW


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight films with sound in two classes; two are to be scored."""
    folder = tmp_path_factory.mktemp("films")
    first = write_media(folder / "0.mp4", audio="aac", count=PICTURES, seconds=PICTURES / RATE)
    for number in range(1, 8):
        (folder / f"{number}.mp4").write_bytes(first.read_bytes())
    rows = [
        f"{n}.mp4,{'odd' if n % 2 else 'even'},{'test' if n < 2 else 'train'}" for n in range(8)
    ]
    (folder / "manifest.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")
    return folder


@pytest.fixture(scope="module")
def film(films: Path) -> Manifest:
    """One of them, scanned."""
    return Manifest(films, [probe_clip(films, Clip(path="0.mp4"))])


@pytest.fixture
def av(run: Path) -> Encoders:
    return avssl.load(run)


def measure(run: Path, folder: Path, **changes: Any) -> Evaluated:
    return evaluate(Options(model=str(run), task="knn", data=str(folder), workers=0, **changes))


def encoded(
    encoder: Encoder, manifest: Manifest, recipe: dict[str, Any] | None = None, **options: Any
) -> Tensor:
    """Features of the only clip, [D]; recipe: how pictures are taken."""
    data = dataclasses.replace(encoder.data, workers=0, batch=4)
    if recipe:
        changed = dataclasses.replace(data.inputs["video"], **recipe)  # type: ignore[type-var]
        data = dataclasses.replace(data, inputs={"video": changed})
    found = encode_clips(
        {"trained": {"x": encoder}}, manifest, data, rows=[0], labels=torch.zeros(1), **options
    )
    (x,) = found.features["trained"]["x"]
    return x


def by_hand(
    encoder: Encoder, manifest: Manifest, numbers: Sequence[Sequence[int]], crops: int
) -> Tensor:
    """The mean over pictures with these numbers, each of the places in these crops, [D]."""
    recipe = encoder.fixed_inputs["video"]
    (clip,) = manifest.clips
    views = []
    for place in numbers:
        times = (np.array(place) + 0.5) / RATE
        x = read_pictures(manifest.root / clip.path, clip, times, short_side=32)  # [T, 32, W, 3]
        assert x.shape[1:3] == (32, 49)
        for left in (8,) if crops == 1 else (0, 8, 17):
            part = torch.from_numpy(x[:, :, left : left + 32] / 255.0)  # [T, 32, 32, 3]
            part = (part - torch.tensor(recipe.mean)) / torch.tensor(recipe.std)  # type: ignore[union-attr]
            views.append(part.permute(3, 0, 1, 2).float())
    with torch.no_grad():
        return encoder.encode({"video": torch.stack(views)}).mean(0)


def window(start: float) -> list[int]:
    """Numbers of the four pictures of the window that starts there, s."""
    return [int((start + k * WINDOW / 4) * RATE + 1e-6) for k in range(4)]


def test_one_view_is_the_middle_window(av: Encoders, film: Manifest) -> None:
    found = encoded(av.video, film, views=Views(1, 1))
    with torch.no_grad():
        expected = av.video(film.root / "0.mp4", span="middle")[0]
    assert torch.equal(found, encoded(av.video, film))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(found, by_hand(av.video, film, [window(SPARE / 2)], 1))


@pytest.mark.parametrize("crops", [1, 3])
@pytest.mark.parametrize(
    ("options", "starts"),
    [
        ({}, [SPARE / 2]),
        ({"span": "all"}, [0, WINDOW, SPARE]),
        ({"clips": 2}, [0, SPARE]),
        ({"clips": 3}, [0, SPARE / 2, SPARE]),
    ],
)
def test_features_are_the_mean_over_places_and_crops(
    av: Encoders, film: Manifest, options: dict[str, Any], starts: list[float], crops: int
) -> None:
    views = Views(options.get("clips", 1), crops)
    found = encoded(av.video, film, span=options.get("span", "middle"), views=views)
    torch.testing.assert_close(found, by_hand(av.video, film, list(map(window, starts)), crops))
    assert not torch.allclose(found, encoded(av.video, film), atol=1e-5) or len(views) == 1


@pytest.mark.parametrize(
    ("recipe", "numbers"),
    [
        ({"sampling": "dense", "stride": 4}, [[0, 4, 8, 12], [44, 48, 52, 56]]),
        ({"sampling": "segments"}, [[3, 18, 33, 48], [11, 26, 41, 56]]),  # 1/4 and 3/4 of 15
    ],
)
def test_pictures_of_the_whole_clip_have_views_too(
    av: Encoders, film: Manifest, recipe: dict[str, Any], numbers: list[list[int]]
) -> None:
    found = encoded(av.video, film, recipe, views=Views(2, 3))
    torch.testing.assert_close(found, by_hand(av.video, film, numbers, 3))


def test_sound_is_taken_from_the_same_places(av: Encoders, tmp_path: Path) -> None:
    wave = np.random.default_rng(0).standard_normal(48000).astype(np.float32) / 10
    wave *= np.linspace(0.1, 2.0, len(wave), dtype=np.float32)
    soundfile.write(tmp_path / "0.wav", wave, 16000, subtype="FLOAT")
    sound = Manifest(tmp_path, [probe_clip(tmp_path, Clip(path="0.wav"))])
    found = encoded(av.audio, sound, views=Views(clips=3))
    parts = [torch.from_numpy(wave[start : start + 16000]) for start in (0, 16000, 32000)]
    with torch.no_grad():
        expected = av.audio(parts, sample_rate=16000).mean(0)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_a_clip_counts_if_all_its_views_can_be_read(
    run: Path, films: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = dataset.read_pictures

    def fails(path: Path, clip: Clip, times: np.ndarray, **more: Any) -> np.ndarray:
        if path.name == "1.mp4" and times[0] > 1:  # its second place
            raise MediaError("torn")
        return read(path, clip, times, **more)

    monkeypatch.setattr("avssl.data.dataset.read_pictures", fails)
    found = measure(run, films, encoders=["video"], clips=2, crops=3)
    assert found.counts["scored"].unreadable == [("1.mp4", "torn")]
    assert found.scores["trained"]["video"].scored == 1


def pictures(folder: Path, *, width: int, seconds: float) -> Path:
    """Films of some width, 64 pixels high; stills where they last no time."""
    rows = ["path,label,split"]
    for number in range(4):
        name = f"{number}.mp4" if seconds else f"{number}.png"
        if seconds:
            write_media(folder / name, count=round(seconds * RATE), size=(width, 64))
        else:
            random = np.random.default_rng(number)
            Image.fromarray(random.integers(0, 256, (64, width, 3), np.uint8)).save(folder / name)
        rows.append(f"{name},{'odd' if number % 2 else 'even'},{'test' if number < 2 else 'train'}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_stills_have_crops_and_no_places(run: Path, tmp_path: Path) -> None:
    stills = pictures(tmp_path, width=96, seconds=0)
    centre = measure(run, stills).features["video"]
    assert not torch.allclose(measure(run, stills, crops=3).features["video"], centre)
    with pytest.raises(UserError, match=r"--clips 2 asks .* each of the 4 clips has one: it is a"):
        measure(run, stills, clips=2)


@pytest.mark.parametrize(
    ("width", "seconds", "views", "sentence"),
    [
        (96, 0.8, {"clips": 2}, r"no longer than the window of 1 s; leave --clips out"),
        (64, 2.0, {"crops": 3}, r"--crops 3 lie along .* those of all 4 clips are square"),
    ],
)
def test_views_that_repeat_each_other_are_refused(
    run: Path, tmp_path: Path, width: int, seconds: float, views: dict[str, Any], sentence: str
) -> None:
    films = pictures(tmp_path, width=width, seconds=seconds)
    with pytest.raises(UserError, match=sentence):
        measure(run, films, **views)


def test_sound_has_no_crops(run: Path, films: Path) -> None:
    with pytest.raises(UserError, match=r"--crops 3 is for pictures, and sound alone is read"):
        measure(run, films, encoders=["audio"], clips=2, crops=3)


@pytest.mark.parametrize("views", [{"clips": 2}, {"crops": 3}])
def test_clips_of_their_own_length_have_no_views(
    films: Path, tmp_path: Path, views: dict[str, Any]
) -> None:
    raven = write_raven(tmp_path / "raven")
    with pytest.raises(UserError, match="clips keep their own length here: leave them out"):
        measure(raven, films, encoders=["audio"], **views)


@pytest.mark.parametrize("task", ["linear", "retrieval"])
def test_the_command_line_takes_views(
    run: Path, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    out = tmp_path / "out"
    words = f"--task {task} --clips 2 --crops 3 --workers 0 --out {out}".split()
    monkeypatch.setattr(sys, "argv", ["x", str(run), "--data", str(films), *words])
    runpy.run_path(str(ROOT / "tools" / "evaluate.py"))["main"]()
    record = json.loads((out / "results.json").read_text())
    assert (record["options"]["clips"], record["options"]["crops"]) == (2, 3)
    assert record["clips"]["scored"]["used"] == 2

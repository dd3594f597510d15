"""tools/extract.py: every clip once, in each format, also when it is killed on the way."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from avssl.data.manifest import Clip
from avssl.data.scan import listed_clips
from avssl.encoders.extract import Job, Wanted, extract
from avssl.encoders.load import Encoders
from avssl.encoders.shards import read_shard, shard_paths
from avssl.errors import UserError
from avssl.files import locked
from tests.data.conftest import write_media

TOOL = Path(__file__).parents[2] / "tools" / "extract.py"
FORMATS = ("safetensors", "parquet", "numpy")


def wanted(**changes: object) -> Wanted:
    values = {
        "module": "video", "layer": None, "pool": "mean", "span": "all", "format": "safetensors",
        "split": None, "shard": 4,
    }  # fmt: skip
    return Wanted(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("module", ["video", "audio_video"])
@pytest.mark.parametrize("pool", ["mean", "none"])
def test_files_hold_what_the_encoder_gives(
    av: Encoders, media: Path, tmp_path: Path, format: str, module: str, pool: str
) -> None:
    asked = wanted(module=module, pool=pool, format=format, layer=(0, 1))
    found = extract(av, str(media), tmp_path, asked, workers=0, batch=4)
    clips = 6 if module == "audio_video" else 7
    assert (found.written, found.before, len(found.failures)) == (clips, 0, 8 - clips)
    shards = [read_shard(path) for path in shard_paths(tmp_path, asked.format)]
    assert [len(shard.rows) for shard in shards] == [4, clips - 4]
    for shard in shards:
        given = {name: torch.from_numpy(x) for name, x in shard.features.items()}
        for number, row in enumerate(shard.rows):
            assert row.label == row.path.split("/")[0]
            path = media / row.path
            if pool == "mean":
                expected = av[module](path, layer=[0, 1])[:, 0]  # [L, D]
                torch.testing.assert_close(given["features"][number], expected)
                continue
            (tokens,) = av[module](path, layer=[0, 1], pool="none")
            tokens = tokens if isinstance(tokens, dict) else {"features": tokens}
            assert set(tokens) == set(given)
            for name, expected in tokens.items():  # [L, N, D]
                counts = shard.tokens[name].tolist()
                first = sum(counts[:number])
                part = given[name][first : first + counts[number]].transpose(0, 1)
                torch.testing.assert_close(part, expected)
    assert "text.mp4" in (tmp_path / "failures.csv").read_text()


def test_clips_that_are_there_are_not_done_again(av: Encoders, media: Path, tmp_path: Path) -> None:
    extract(av, str(media), tmp_path, wanted(), workers=0)
    before = {path: path.read_bytes() for path in shard_paths(tmp_path, "safetensors")}
    again = extract(av, str(media), tmp_path, wanted(), workers=0)
    assert (again.written, again.before) == (0, 7)
    assert {path: path.read_bytes() for path in shard_paths(tmp_path, "safetensors")} == before


def test_other_features_are_refused(av: Encoders, media: Path, tmp_path: Path) -> None:
    extract(av, str(media), tmp_path / "f", wanted(), workers=0)
    with pytest.raises(UserError, match="pool was 'mean' and is 'cls' now"):
        extract(av, str(media), tmp_path / "f", wanted(pool="cls"), workers=0)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(UserError, match="not an empty folder"):
        extract(av, str(media), tmp_path / "other", wanted(), workers=0)
    with pytest.raises(UserError, match="has no encoder 'text'"):
        extract(av, str(media), tmp_path / "g", wanted(module="text"), workers=0)
    with pytest.raises(UserError, match="layers 0"):
        extract(av, str(media), tmp_path / "g", wanted(layer=99), workers=0)
    assert not (tmp_path / "g").exists()


def test_a_second_process_waits_outside(av: Encoders, media: Path, tmp_path: Path) -> None:
    extract(av, str(media), tmp_path, wanted(), workers=0)
    with locked(tmp_path, "ours"), pytest.raises(UserError, match="another process writes"):
        extract(av, str(media), tmp_path, wanted(), workers=0)


def test_large_features_close_a_file_early(
    av: Encoders, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("avssl.encoders.extract.SHARD_BYTES", 1)
    extract(av, str(media), tmp_path, wanted(pool="none"), workers=0)
    rows = [len(read_shard(path).rows) for path in shard_paths(tmp_path, "safetensors")]
    assert rows == [1] * 7


def test_a_stretch_that_cannot_be_used_is_named(av: Encoders, media: Path, tmp_path: Path) -> None:
    (media / "manifest.csv").write_text(
        "path,start,end\neven/0.mp4,0,0.2\nodd/1.mp4,,\nodd/1.mp4,50,60\neven/text.mp4,,\n"
    )
    try:
        found = extract(av, str(media), tmp_path, wanted(), workers=0)
    finally:
        (media / "manifest.csv").unlink()
    assert found.written == 2
    assert {path for path, *_ in found.failures} == {"odd/1.mp4", "even/text.mp4"}


def test_a_name_that_is_not_utf8_is_named(av: Encoders, media: Path, tmp_path: Path) -> None:
    folder = tmp_path / "media"
    folder.mkdir()
    for name in (b"good.mp4", b"b\xffd.mp4"):
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write((media / "odd" / "1.mp4").read_bytes())
    out = tmp_path / "out"
    found = extract(av, str(folder), out, wanted(), workers=0)
    assert found.written == 1 and [path for path, *_ in found.failures] == ["b\\xffd.mp4"]
    assert "b\\xffd.mp4,,,its name is not UTF-8: rename it" in (out / "failures.csv").read_text()


def test_a_damaged_file_is_named(av: Encoders, media: Path, tmp_path: Path) -> None:
    extract(av, str(media), tmp_path, wanted(), workers=0)
    path = shard_paths(tmp_path, "safetensors")[0]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"features-00000\.safetensors is damaged"):
        extract(av, str(media), tmp_path, wanted(), workers=0)
    path.unlink()
    assert extract(av, str(media), tmp_path, wanted(), workers=0).written == 4


@pytest.mark.parametrize(
    "stops", [[2], pytest.param([1, 3, 5, 8, 11], marks=pytest.mark.long)], ids=["once", "often"]
)
def test_killed_no_clip_is_lost_or_doubled(mavil: Path, tmp_path: Path, stops: list[int]) -> None:
    """kill -9 as soon as so many files are there; the last run ends by itself."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for number in range(40):
        write_media(folder / f"{number:02d}.mp4", audio="aac", count=12, size=(64, 48))
    out = tmp_path / "out"
    command = [
        sys.executable, str(TOOL), str(mavil), str(folder), "--module", "audio_video", "--out",
        str(out), "--shard", "3", "--batch", "2", "--workers", "0",
    ]  # fmt: skip
    environment = {**os.environ, "AVSSL_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    kills = 0
    for shards in stops:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        limit = time.monotonic() + 120
        while len(shard_paths(out, "safetensors")) < shards and process.poll() is None:
            assert time.monotonic() < limit
            time.sleep(0.005)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert kills == len(stops)
    rows = [row.path for path in shard_paths(out, "safetensors") for row in read_shard(path).rows]
    assert sorted(rows) == [clip.path for clip in listed_clips(folder).clips]


def test_windows_of_clips_may_come_mixed(tmp_path: Path) -> None:
    """As in the order of length, where one of a clip is a frame shorter than the others."""
    clips = [Clip(path="a"), Clip(path="b")]
    job = Job(tmp_path, None, wanted(pool="none"), clips, [0, 0, 1, 1])  # type: ignore[arg-type]
    mixed = [(1, {"x": torch.ones(1, 2)}), (2, {"x": torch.zeros(1, 2)})]
    mixed += [(0, {"x": torch.zeros(2, 2)}), (3, {"x": torch.ones(1, 2)})]
    found = {owner: part["x"][:, 0].tolist() for owner, part in job._whole(mixed)}
    assert found == {0: [0, 0, 1], 1: [0, 1]}

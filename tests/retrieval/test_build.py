"""An index holds each readable clip once, however often and wherever building it was stopped."""

import json
import multiprocessing
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avssl.errors import UserError
from avssl.retrieval import build, nearest, store
from avssl.retrieval.build import Indexed, index_clips
from avssl.retrieval.parts import Parts
from avssl.retrieval.search import Search
from tests.retrieval.conftest import CORPUS
from tests.train import tiny


def index(model: Path, source: Path | str, folder: Path, **changes: Any) -> Indexed:
    options: dict[str, Any] = {"memory": 10**9, "workers": 0, **changes}
    return index_clips(str(source), run=model, folder=folder, **options)


def paths(folder: Path) -> list[str]:
    search = Search.open(folder)
    return [search.clip(id).path for id in range(len(search))]


def same(a: Path, b: Path) -> bool:
    """Whether two indexes hold the same clips under the same ids, with the same vectors."""
    one, two = Search.open(a), Search.open(b)
    return paths(a) == paths(b) and all(
        np.allclose(one.vector(id, m), two.vector(id, m), atol=1e-5)
        for m in one.modalities
        for id in range(len(one))
    )


def test_recalls_through_the_index_are_those_of_the_run(model: Path, scenes: Path) -> None:
    search = Search.open(scenes)
    wanted = json.loads((model / "results.json").read_text())["stage2"]["retrieval"]
    assert len(search) == 8
    for by, to in (("audio", "video"), ("video", "audio")):
        found = [[m.id for m in search.query(search.vector(i, by), to=to)] for i in range(8)]
        place = np.array([ids.index(i) for i, ids in enumerate(found)])
        for k in (1, 5, 10):
            assert (place < k).mean() == wanted[f"{by}_to_{to}"][f"r{k}"]


def test_vectors_are_those_of_the_files(scenes: Path, clips: Path) -> None:
    search = Search.open(scenes)
    for id in range(3):
        file = search.file(id)
        assert file.parent == clips and file.is_file()
        found = search.query(search.embed(file, "video"), to="video", top=1)[0]
        assert found.id == id and found.score == pytest.approx(1, abs=1e-5)


def test_new_clips_and_folders_are_added_and_ids_stay(
    model: Path, clips: Path, tmp_path: Path
) -> None:
    folder, more, made = tmp_path / "clips", tmp_path / "more", tmp_path / "index"
    for target, numbers in ((folder, (3, 1)), (more, (1, 2))):
        target.mkdir()
        for number in numbers:
            shutil.copy(clips / f"0000{number}.mp4", target)
    assert index(model, folder, made).added == 2
    first = paths(made)
    assert first == ["00001.mp4", "00003.mp4"]
    again = index(model, folder, made)
    assert (again.added, again.already, again.number) == (0, 2, 2)
    shutil.copy(clips / "00000.mp4", folder)  # sorts before the others
    grown = index(model, folder, made)
    assert (grown.added, grown.already, grown.number) == (1, 2, 3)
    assert index(model, more, made).number == 5
    assert paths(made) == [*first, "00000.mp4", "00001.mp4", "00002.mp4"]
    search = Search.open(made)
    assert [search.file(id).parent for id in range(5)] == [*[folder] * 3, *[more] * 2]
    files = {path.name for path in made.iterdir() if not path.name.startswith(".")}
    assert files == {"index.json", "audio.3.npy", "video.3.npy", "clips.3.jsonl"}
    shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}-moved")
    moved = Search.open(tmp_path.parent / f"{tmp_path.name}-moved" / "index", run=model)
    assert moved.file(4).is_file() and "-moved" in str(moved.file(4).resolve())


def test_stretches_of_one_file_are_clips_of_their_own(
    model: Path, clips: Path, tmp_path: Path
) -> None:
    shutil.copy(clips / "00001.mp4", tmp_path / "a.mp4")
    rows = "path,start,end,label\na.mp4,0,1,x\na.mp4,1,2.5,y\n"
    (tmp_path / "manifest.csv").write_text(rows)
    made = tmp_path / "index"
    assert index(model, tmp_path, made).added == 2
    (tmp_path / "manifest.csv").write_text(rows + "a.mp4,,,z\n")
    done = index(model, tmp_path / "manifest.csv", made)  # the same clips by another name
    assert (done.added, done.already) == (1, 2)
    search = Search.open(made)
    found = search.query(search.vector(1, "audio"), to="audio", top=3)
    assert (found[0].id, found[0].start, found[0].end, found[0].label) == (1, 1.0, 2.5, "y")
    assert {(match.start, match.label) for match in found} == {(0.0, "x"), (1.0, "y"), (None, "z")}


def test_unreadable_clips_are_listed_and_nothing_stands_in_for_them(
    model: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, made = tmp_path / "clips", tmp_path / "index"
    shutil.copytree(clips, folder)
    (folder / "text.mp4").write_text("no film")
    assert index(model, folder, tmp_path / "whole").number == 8  # scanned: what follows is new
    hurt = folder / "00002.mp4"
    good, status = hurt.read_bytes(), hurt.stat()
    hurt.write_bytes(good[: len(good) // 2].ljust(len(good), b"\0"))
    _same_times(hurt, status)
    done = index(model, folder, made)
    assert [path for path, _ in done.unreadable] == ["00002.mp4"]
    assert [path for path, _ in done.left_out] == ["text.mp4"]
    assert paths(made) == [f"0000{number}.mp4" for number in (0, 1, 3, 4, 5, 6, 7)]
    assert [path for path, _ in index(model, folder, made).unreadable] == ["00002.mp4"]
    hurt.write_bytes(good)  # mended: it is tried again
    _same_times(hurt, status)
    assert index(model, folder, made).added == 1
    assert paths(made)[-1] == "00002.mp4" and len(paths(made)) == 8


def _same_times(path: Path, status: Any) -> None:
    """Let the scan's cache take a file for unchanged."""
    import os

    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_source_of_which_nothing_can_be_read_leaves_no_index(
    model: Path, clips: Path, tmp_path: Path
) -> None:
    folder, made = tmp_path / "clips", tmp_path / "index"
    folder.mkdir()
    (folder / "a.mp4").write_text("no film")
    with pytest.raises(UserError, match=r"none of the 1 clips .* a\.mp4: damaged"):
        index(model, folder, made)
    with pytest.raises(UserError, match=r"it has no index\.json: build one"):
        Search.open(made)


@pytest.mark.parametrize(
    "moment",
    ["Parts.add", "write_rows", "write_vectors", "describe", "write_header", "remove_others"],
)
@pytest.mark.parametrize("after", [False, True])
def test_stopped_anywhere_it_goes_on(
    model: Path,
    scenes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    after: bool,
) -> None:
    class Stop(BaseException):
        pass

    def stops_at(call: Callable[..., Any], number: int) -> Callable[..., Any]:
        def stopping(*args: Any, **kwargs: Any) -> Any:
            nonlocal number
            number -= 1
            if number == 0 and not after:
                raise Stop
            result = call(*args, **kwargs)
            if number == 0:
                raise Stop
            return result

        return stopping

    monkeypatch.setattr(build, "_BATCH", 3)
    source, made = f"corpus:{CORPUS}", tmp_path / "index"
    for number in (1, 2):  # the first call, then, going on, the second
        with monkeypatch.context() as patch:
            where, name = (Parts, "add") if "." in moment else (store, moment)
            patch.setattr(where, name, stops_at(getattr(where, name), number))
            try:
                index(model, source, made, split="test", keep_every=0)
            except Stop:
                pass
    assert index(model, source, made, split="test").number == 8
    assert same(made, scenes)
    assert not (made / "parts").exists() and not list(made.glob(".*.tmp"))


@pytest.mark.parametrize("kills", [2, pytest.param(12, marks=pytest.mark.long)])
def test_killed_it_goes_on(model: Path, tmp_path: Path, kills: int) -> None:
    source, made = f"corpus:{CORPUS}", tmp_path / "index"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.train.preload"])
    moments = random.Random(kills)
    for _ in range(kills):
        process = context.Process(target=_slow_child, args=(model, source, made))
        process.start()
        _wait_for_portions(made, moments.randint(1, 3), process)
        time.sleep(moments.random() * 0.05)
        process.kill()
        process.join()
    index(model, source, made)
    index(model, source, tmp_path / "whole")
    assert same(made, tmp_path / "whole")
    assert len(set(paths(made))) == 48


def _slow_child(model: Path, source: str, folder: Path) -> None:
    build._BATCH = 2
    index(model, source, folder, keep_every=0)


def _wait_for_portions(folder: Path, more: int, process: Any) -> None:
    def portions() -> int:
        return len(list(folder.glob("parts/1/*.npz")))

    begin, patience = portions(), time.monotonic() + tiny.PATIENCE
    while process.is_alive() and portions() < begin + more and time.monotonic() < patience:
        time.sleep(0.002)


def test_an_index_with_codes_grows(
    model: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(nearest, "COMPARE_ALL", 0)
    made = tmp_path / "index"
    index(model, f"corpus:{CORPUS}", made, split="train", precision="float16")
    index(model, f"corpus:{CORPUS}", made, split="test", precision="float16")
    assert {path.suffix for path in made.iterdir()} >= {".faiss", ".npy"}
    search = Search.open(made)
    assert len(search) == 40 and search.header.modalities["video"].nearest["fitted"] == 32
    for id in (0, 31, 32, 39):
        found = search.query(search.vector(id, "video"), to="video", top=3)
        assert found[0].score == pytest.approx(1, abs=2e-3)


def test_what_does_not_fit_is_refused(
    model: Path, other: Path, scenes: Path, tmp_path: Path
) -> None:
    made = tmp_path / "index"
    shutil.copytree(scenes, made)
    source = f"corpus:{CORPUS}"
    with pytest.raises(UserError, match="was built by another model"):
        index(other, source, made)
    with pytest.raises(UserError, match="is an index of audio and video, not of audio"):
        index(model, source, made, modalities=("audio",))
    with pytest.raises(UserError, match="holds float32 vectors, not float16"):
        index(model, source, made, precision="float16")
    with pytest.raises(UserError, match=r"an index of 48 clips needs .* allowed are 1.0 KB"):
        index(model, source, made, memory=1000)
    assert same(made, scenes)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match=r"no index and not empty \(it holds thesis\.tex\)"):
        index(model, source, tmp_path / "full")
    with store.locked(made), pytest.raises(UserError, match="another process is adding"):
        index(model, source, made)


@pytest.mark.parametrize("harm", ["cut", "changed", "empty"])
def test_a_damaged_portion_is_a_sentence(tmp_path: Path, harm: str) -> None:
    Parts(tmp_path, 1).add([{"path": "a.mp4"}], {"audio": np.ones((1, 16), np.float32)})
    path = tmp_path / "parts" / "1" / "00000000.npz"
    whole = bytearray(path.read_bytes())
    whole[150] ^= 255
    path.write_bytes({"cut": whole[:-9], "changed": whole, "empty": b""}[harm])
    with pytest.raises(UserError, match=r"00000000\.npz is damaged .* delete the folder"):
        for _ in Parts(tmp_path, 1).rows():
            pass
        for _ in Parts(tmp_path, 1).vectors("audio"):
            pass


def test_sound_alone_can_be_indexed(model: Path, clips: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sounds"
    folder.mkdir()
    for number in range(3):
        shutil.copy(clips / f"0000{number}.wav", folder)
    with pytest.raises(UserError, match="has no picture"):
        index(model, folder, tmp_path / "index", modalities=("audio", "video"))
    assert index(model, folder, tmp_path / "index").number == 3
    search = Search.open(tmp_path / "index")
    vector = search.embed(clips / "00001.mp4", "audio")
    assert search.query(vector, to="audio", top=1)[0].path == "00001.wav"
    with pytest.raises(UserError, match="has no vectors of 'video': it has audio"):
        search.query(vector, to="video")

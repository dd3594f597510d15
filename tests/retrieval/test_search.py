"""Questions that cannot be answered are refused in a sentence; so are folders that were harmed."""

import io
import json
import shutil
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from avssl.errors import UserError
from avssl.retrieval import search as search_module
from avssl.retrieval.search import Match, Search
from avssl.retrieval.show import table
from avssl.retrieval.store import Header, describe


@pytest.fixture
def copy(scenes: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(scenes, tmp_path / "copy"))


def test_matches_come_best_first_with_what_the_manifest_says(scenes: Path) -> None:
    search = Search.open(scenes)
    found = search.query(search.vector(2, "audio"), to="audio", top=99)
    assert len(found) == 8 and len({match.id for match in found}) == 8
    assert [match.score for match in found] == sorted((m.score for m in found), reverse=True)
    assert (found[0].id, found[0].path) == (2, "clips/test/00002.mp4")
    assert found[0].label == search.clip(2).label != "" and found[0].start is None


def test_a_query_needs_a_direction_and_the_right_width(scenes: Path) -> None:
    search = Search.open(scenes)
    with pytest.raises(UserError, match=r"the shape \[7\], .* the width 16"):
        search.query(np.ones(7))
    for bad in (np.zeros(16), np.full(16, np.nan)):
        with pytest.raises(UserError, match="zero or not finite"):
            search.query(bad)
    with pytest.raises(UserError, match="at least one"):
        search.query(np.ones(16), top=0)
    with pytest.raises(UserError, match="no clip 8: ids are 0 to 7"):
        search.file(8)


def test_a_sample_is_the_same_for_every_query(scenes: Path) -> None:
    search = Search.open(scenes)
    vectors = [search.vector(id, "audio") for id in (1, 6)]
    drawn = [search.sample(vector, to="video", count=5) for vector in vectors]
    ids = [match.id for match in drawn[0]]
    assert ids == [match.id for match in drawn[1]] == sorted(set(ids)) and len(ids) == 5
    for vector, sample in zip(vectors, drawn, strict=True):
        ranked = {match.id: match for match in search.query(vector, to="video", top=8)}
        assert all(match == ranked[match.id] for match in sample)
    assert [match.id for match in search.sample(vectors[0], count=99)] == list(range(8))
    with pytest.raises(UserError, match="the shape"):
        search.sample(np.ones(7), count=5)
    with pytest.raises(UserError, match="at least one"):
        search.sample(vectors[0], count=0)


def test_files_that_cannot_be_a_query(scenes: Path, clips: Path, tmp_path: Path) -> None:
    search = Search.open(scenes)
    (tmp_path / "none.wav").touch()
    (tmp_path / "words.txt").write_text("dog")
    with wave.open(str(tmp_path / "silent.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", "not compressed"))
    for name in ("none.wav", "words.txt", "silent.wav", "absent.mp4"):
        with pytest.raises(UserError, match=name):
            search.embed(tmp_path / name, "audio")
    with pytest.raises(UserError, match="has no picture"):
        search.embed(clips / "00001.wav", "video")


def test_two_users_at_once_get_what_one_gets(scenes: Path, clips: Path) -> None:
    names = [f"0000{number}.mp4" for number in range(4)]
    one = Search.open(scenes)
    alone = [one.query(one.embed(clips / name, "audio")) for name in names]
    search = Search.open(scenes)
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda n: search.query(search.embed(clips / n, "audio")), names))
    assert [[m.id for m in found] for found in together] == [[m.id for m in f] for f in alone]


def test_another_model_cannot_embed(copy: Path, other: Path, clips: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was built by another model"):
        Search.open(copy, run=other).embed(clips / "00001.mp4", "audio")
    with pytest.raises(UserError, match=r"not at .*gone any more: say where with --run"):
        Search.open(copy, run=tmp_path / "gone").embed(clips / "00001.mp4", "audio")


def test_vectors_of_another_model_are_no_targets(copy: Path, clips: Path) -> None:
    path = copy / "index.json"
    header = json.loads(path.read_text())
    header["modalities"]["video"]["fingerprint"] = "0123456789abcdef"
    path.write_text(json.dumps(header))
    search = Search.open(copy)
    for _ in range(2):  # as often as it is asked
        with pytest.raises(UserError, match=r"another model .*, encoder 0123456789abcdef"):
            search.embed(clips / "00001.mp4", "audio")


def test_memory_is_estimated_before_anything_is_read(copy: Path) -> None:
    for path in copy.glob("*.npy"):
        path.unlink()
    with pytest.raises(UserError, match=r"needs 1\.\d KB of memory, allowed are 1\.0 KB: raise"):
        Search.open(copy, memory="1KB")


def test_a_memory_that_is_no_size_is_a_sentence(scenes: Path) -> None:
    with pytest.raises(UserError, match="memory must be a size such as 500MB or 4GB, found 'all'"):
        Search.open(scenes, memory="all")


def test_an_index_that_grows_while_it_is_opened_is_opened(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = search_module.check_files, []

    def grown(folder: Path, header: Header) -> None:
        calls.append(header.generation)
        if len(calls) == 1:  # another process has added clips, and deletes the files of before
            for path in [*copy.glob("*.1.*")]:
                path.rename(copy / path.name.replace(".1.", ".2."))
            text = (copy / "index.json").read_text().replace('"generation": 1', '"generation": 2')
            (copy / "index.json").write_text(text.replace(".1.", ".2."))
        real(folder, header)

    monkeypatch.setattr(search_module, "check_files", grown)
    assert len(Search.open(copy)) == 8 and calls == [1, 2]


@pytest.mark.parametrize("name", ["audio.1.npy", "clips.1.jsonl"])
@pytest.mark.parametrize("harm", ["gone", "cut", "changed"])
def test_damaged_files_are_named(copy: Path, name: str, harm: str) -> None:
    path = copy / name
    whole = bytearray(path.read_bytes())
    if harm == "gone":
        path.unlink()
    else:
        whole[len(whole) // 2] ^= 1
        path.write_bytes(whole if harm == "changed" else whole[:-9])
    with pytest.raises(UserError, match=rf"{name} is .* damaged, build it anew"):
        Search.open(copy)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "{}", '{"format": 1}', '{"format": 1, "modalities": {"audio": 3}}'),
        *("\\xff", "[" * 200_000),
    ],
    ids=range(8),
)
def test_a_damaged_header_is_a_sentence(copy: Path, text: str) -> None:
    (copy / "index.json").write_text(text)
    with pytest.raises(UserError, match=r"index\.json is damaged .* build the index anew"):
        Search.open(copy)


def test_a_header_that_is_a_folder_is_a_sentence(copy: Path) -> None:
    (copy / "index.json").unlink()
    (copy / "index.json").mkdir()
    with pytest.raises(UserError, match=r"index\.json is no file in an index folder: name"):
        Search.open(copy)


def replaced(copy: Path, name: str, content: bytes) -> None:
    """Write other content, and say in index.json that it is right."""
    (copy / name).write_bytes(content)
    header = json.loads((copy / "index.json").read_text())
    header["files"][name] = describe(copy / name)
    (copy / "index.json").write_text(json.dumps(header))


@pytest.mark.parametrize("name", ["audio.1.npy", "clips.1.jsonl"])
@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"\x93NUMPY", b"\x93NUMPY\1\0\4\0((((", b"x"]
)
def test_damage_that_index_json_agrees_with_is_a_sentence(
    copy: Path, name: str, content: bytes
) -> None:
    replaced(copy, name, content)
    with pytest.raises(UserError, match="build the index anew"):
        Search.open(copy)


def test_an_archive_of_vectors_is_a_sentence(copy: Path) -> None:
    content = io.BytesIO()
    np.savez(content, x=np.ones(3))
    replaced(copy, "audio.1.npy", content.getvalue())
    with pytest.raises(UserError, match=r"audio\.1\.npy is damaged .* build the index anew"):
        Search.open(copy)


@pytest.mark.parametrize(
    "line",
    [
        *("{", "[]", "3", "{}", '{"source": 0}', '{"path": "a"}', "[" * 100_000),
        *('{"path": 3, "source": 0}', '{"path": "a", "source": "x"}', "\udcff"),
        *('{"path": "a", "source": 0, "start": "x"}', '{"path": "a", "source": 0, "start": NaN}'),
        *('{"path": "a", "source": 0, "colour": 1}', '{"path": "a", "source": 0, "label": []}'),
        '{"path": "a", "source": 0, "start": 1' + "0" * 400 + "}",
    ],
    ids=range(15),
)
def test_a_row_that_is_none_is_a_sentence(copy: Path, line: str) -> None:
    lines = (copy / "clips.1.jsonl").read_bytes().splitlines()
    lines[3] = line.encode(errors="surrogateescape")
    replaced(copy, "clips.1.jsonl", b"\n".join(lines) + b"\n")
    search = Search.open(copy)
    with pytest.raises(UserError, match=r"clips\.1\.jsonl is damaged \(line 4: .* index anew"):
        table(search.query(np.ones(16), top=8))
    assert search.clip(2).path


def test_a_table_shows_control_characters_escaped() -> None:
    match = Match(0, "a\x1b[31m\nb é\u202e.mp4", None, None, "c\td", 0.5)
    lines = table([match]).split("\n")
    assert len(lines) == 2 and "a\\x1b[31m\\nb é\\u202e.mp4" in lines[1]
    assert lines[1].endswith("c\\td")


@pytest.mark.parametrize("value", [None, 3, -1, "x", [], {}, [1], {"a": 1}, True])
def test_no_value_of_the_header_gives_a_traceback(copy: Path, value: object) -> None:
    path = copy / "index.json"
    whole = json.loads(path.read_text())
    places = [[name] for name in whole] + [["sources", 0], ["files", "audio.1.npy"]]
    places += [["modalities", "video", *rest] for rest in ([], ["nearest"], ["nearest", "type"])]
    for *above, name in places:
        harmed = json.loads(path.read_text())
        inner = harmed
        for step in above:
            inner = inner[step]
        inner[name] = value
        (copy / "index.json").write_text(json.dumps(harmed))
        try:
            search = Search.open(copy)
            search.file(search.query(np.ones(16), to="video")[0].id)
        except UserError:
            pass
        path.write_text(json.dumps(whole))


def test_another_format_is_a_sentence(copy: Path) -> None:
    path = copy / "index.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 9'))
    with pytest.raises(UserError, match="has the format 9, this version reads 1"):
        Search.open(copy)

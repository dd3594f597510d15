"""Reading clips: words and their times, pieces of long clips, streams, captions, and the tool."""

from __future__ import annotations

import itertools
import json
import runpy
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from avssl.data.batches import finish_inputs, stack_inputs
from avssl.data.config import DataConfig
from avssl.data.length_config import LengthsConfig, LipsConfig, WaveConfig
from avssl.errors import UserError
from avssl.graph.graph import Graph
from avssl.speech.align import Word
from avssl.speech.captions import draw_line, lines, write_captions
from avssl.speech.clip import read_clip
from avssl.speech.decoding import Decoding
from avssl.speech.reader import Reader
from avssl.speech.readers import Readers
from avssl.speech.transcribe import transcribe
from tests.speech.rigged import LONGEST, UNITS, Rigged, write_talk

TOOL = Path(__file__).parents[2] / "tools" / "lipread.py"
TEXT, SOUND = "bad cafe", "feed a cab"


@pytest.fixture(autouse=True)
def rigged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders are named for what their reader reads."""
    monkeypatch.setattr(Reader, "load", lambda folder: Rigged(Path(folder).name))


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mouth crops that say TEXT, with sound that says SOUND."""
    path = tmp_path_factory.mktemp("talk") / "talk.mp4"
    write_talk(path, TEXT, SOUND)
    return path


def lipread(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["lipread.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(TOOL), run_name="__main__")
    return int(end.value.code or 0)


@pytest.mark.parametrize("kind", ["video", "audio", "both"])
def test_words_have_the_times_at_which_they_are_said(talk: Path, kind: str) -> None:
    readers = Readers([Path(kind)])
    found = transcribe(readers.reader(kind), read_clip(talk, readers.data(kind)))
    said = SOUND if kind == "audio" else TEXT
    assert found.text == said and found.confidence > 0.6
    place = 0
    for word in found.words:
        place = said.index(word.text, place)
        start, end = (2 + 5 * place) / 25, (2 + 5 * (place + len(word.text)) - 2) / 25
        assert (word.start, word.end) == pytest.approx((start, end), abs=0.09)
        place += len(word.text)


def test_one_reader_of_both_reads_either_alone(talk: Path) -> None:
    readers = Readers([Path("both")])
    assert readers.kinds == ["video", "audio", "both"]
    for kind, said in (("video", TEXT), ("audio", SOUND)):
        assert transcribe(readers.reader(kind), read_clip(talk, readers.data(kind))).text == said


@pytest.fixture(scope="module")
def untrained() -> Reader:
    """A reader of both with random weights."""
    args = {
        "image": 32, "channels": 8, "features": 64, "width": 16, "depth": 1, "heads": 2,
        "hidden": 16, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2,
        "decoder_hidden": 16, "units": len(UNITS),
    }  # fmt: skip
    configs = Path(__file__).parents[2] / "configs"
    inputs = {"video": LipsConfig(size=32, stored=36), "audio": WaveConfig()}
    return Reader(
        Graph.from_file(configs / "graphs" / "speech_both.yaml", args=args),
        data=DataConfig(lengths=LengthsConfig(longest=LONGEST), inputs=inputs),
        units=UNITS,
        settings=Decoding(beam=3, ctc_weight=0.5, length_bonus=1.5),
    )


@pytest.mark.parametrize("kind", ["video", "audio", "both"])
def test_words_are_those_of_the_reader_itself(
    untrained: Reader, talk: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Reader, "load", lambda folder: untrained)
    readers = Readers([Path("both")])
    clip = read_clip(talk, readers.data(kind))
    batch = finish_inputs(
        stack_inputs([clip.inputs], readers.data(kind).inputs), readers.data(kind).inputs
    )
    (hypothesis,) = untrained.transcribe(batch)
    found = transcribe(untrained, clip)
    assert found.text == UNITS.decode(hypothesis.units) != ""
    assert all(0 <= word.start < word.end <= found.seconds for word in found.words)


def test_a_long_clip_is_read_in_pieces(tmp_path: Path) -> None:
    text = " ".join(["bad", "cafe", "fed", "abba", "a", "dead", "face", "cab", "be", "fad"] * 2)
    write_talk(tmp_path / "long.mp4", text)
    reader = Rigged("video")
    found = transcribe(reader, read_clip(tmp_path / "long.mp4", reader.data))  # type: ignore[arg-type]
    assert found.seconds > 4 * LONGEST and reader.longest == LONGEST * 25
    # only words that a border cuts may be lost, and none is said twice
    assert found.text == text
    assert all(one.end <= other.start for one, other in itertools.pairwise(found.words))


def test_silence_is_no_words(tmp_path: Path) -> None:
    write_talk(tmp_path / "mute.mp4", "")
    reader = Rigged("video")
    found = transcribe(reader, read_clip(tmp_path / "mute.mp4", reader.data))  # type: ignore[arg-type]
    assert found.text == "" and found.words == [] and 0 < found.confidence <= 1


def test_missing_streams_and_odd_files_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], talk: Path
) -> None:
    silent, blind, text = (tmp_path / name for name in ("silent.mp4", "blind.mp4", "a.txt"))
    write_talk(silent, TEXT)
    write_talk(blind, None, SOUND)
    text.write_text("no clip")
    for arguments, sentence in (
        ([silent, "--audio", "--model", "audio"], "silent.mp4 has no sound"),
        ([silent, "--both", "--model", "both"], "silent.mp4 has no sound"),
        ([blind, "--model", "video"], "blind.mp4 has no picture"),
        ([text, "--model", "video"], "a.txt cannot be read"),
        ([tmp_path / "none.mp4", "--model", "video"], "is not there"),
        ([tmp_path, "--model", "video"], "is a folder"),
        ([talk, "--model", "audio"], "no model that was given reads lips alone"),
        ([talk, "--audio", "--model", "x/video"], "x/video reads lips"),
        ([talk, "--model", "x/video", "--model", "y/video"], "both read lips: give one"),
        ([talk, "--model", "video", "--captions", "x.avi"], "must end in .mp4"),
        ([talk, "--model", "video", "--captions", talk], "is the clip itself"),
        ([blind, "--audio", "--model", "audio", "--captions", tmp_path / "c.mp4"], "no picture"),
        ([talk, "--model", "video", "--greedy", "--beam", "3"], "--greedy has no beam"),
        ([talk, "--model", "video", "--beam", "9999"], "--beam must be from 1 to 1000"),
        ([talk, "--model", "video", "--device", "cuda:99"], "--device cuda:99"),
        ([talk, "--model", "video", "--captions", talk / "c.mp4"], "cannot be written"),
        ([talk, "--model", "video", "--port", "80"], "they need --serve"),
        (["--model", "video"], "give a clip to read"),
    ):
        if "cuda:99" in arguments:
            monkeypatch.setattr(Rigged, "to", _lacks)
        assert lipread(monkeypatch, *arguments) == 2, arguments
        shown = capsys.readouterr()
        assert sentence in shown.err and not shown.out  # before anything is read


def _lacks(self: Rigged, device: object) -> Rigged:
    raise RuntimeError(f"what torch says of a missing {device}")


def test_the_tool_prints_text_times_and_json(
    talk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lipread(monkeypatch, talk, "--model", "video") == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == TEXT and shown[1].startswith("confidence 0.")
    assert "beam 3" in shown[1] and shown[2].split()[4:5] == ["bad"] and len(shown) == 4
    assert lipread(monkeypatch, talk, "--model", "both", "--audio", "--greedy", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["text"] == SOUND and found["kind"] == "audio"
    assert found["decode"]["method"] == "greedy"
    assert [word["text"] for word in found["words"]] == SOUND.split()


def test_captions_are_written_with_sound(
    talk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "new" / "captions.mp4"
    assert lipread(monkeypatch, talk, "--model", "video", "--captions", target) == 0
    with av.open(str(target)) as out, av.open(str(talk)) as source:
        assert out.streams.video[0].codec_context.name == "h264"
        assert out.streams.audio[0].codec_context.name == "aac"
        assert out.streams.video[0].frames == source.streams.video[0].frames
        pictures = [frame.to_ndarray(format="rgb24") for frame in out.decode(video=0)]
    assert pictures[0].shape == (320, 320, 3)
    # words stand at the bottom while they are said, and nothing before
    said = pictures[20]
    assert int(said[260:].max()) - int(said[260:].min()) > 100 and said[:200].std() < 12


def test_lines_are_short_and_do_not_overlap() -> None:
    words = [Word(f"word{n}", n * 0.4, n * 0.4 + 0.3, 1.0) for n in range(12)]
    words += [Word("later", 20.0, 20.4, 1.0)]
    assert lines([]) == []
    found = lines(words)
    assert [word for line in found for word in line.words] == words
    assert all(len(" ".join(word.text for word in line.words)) <= 32 for line in found)
    assert all(one.end <= other.start for one, other in itertools.pairwise(found))
    assert found[-1].words == words[-1:] and found[-2].end < 7  # goes in the pause
    blank = np.zeros((200, 300, 3), np.uint8)
    assert draw_line(blank, 10.0, found) is blank
    first, second = (draw_line(blank, time, found) for time in (0.1, 0.5))
    assert first.shape == blank.shape and not np.array_equal(first, second)  # another word is said
    long = lines([Word("w" * 40, 0.0, 1.0, 1.0)])
    drawn = draw_line(blank, 0.5, long)
    assert drawn.any() and not drawn[:, :2].any() and not drawn[:, -2:].any()  # within the picture


def test_captions_of_a_clip_without_picture(tmp_path: Path) -> None:
    write_talk(tmp_path / "blind.mp4", None, SOUND)
    clip = read_clip(tmp_path / "blind.mp4", Rigged("audio").data)
    with pytest.raises(UserError, match="no picture to write captions on"):
        write_captions(tmp_path / "blind.mp4", clip.row, [], tmp_path / "out.mp4")

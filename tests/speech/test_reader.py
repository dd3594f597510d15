"""Readers of sound and lips together, and reading that is stopped and goes on."""

import json
from pathlib import Path

import pytest
import torch

from avssl.data.config import DataConfig
from avssl.data.length_config import LengthsConfig, LipsConfig, WaveConfig
from avssl.data.manifest import Manifest
from avssl.data.source import open_source
from avssl.errors import UserError
from avssl.graph import Graph
from avssl.speech.decoding import Decoding, Hypothesis
from avssl.speech.reader import Reader
from avssl.speech.transcripts import Task, transcribe_clips
from avssl.speech.units import Units
from tests.speech.tones import CONFIGS, TEXTS, write_clips, write_manifest, write_tones

BOTH = CONFIGS / "graphs" / "speech_both.yaml"
UNITS = Units.characters("ab ")
SIZES = {
    "image": 32, "channels": 8, "features": 64, "width": 16, "depth": 1, "heads": 2, "hidden": 32,
    "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2, "decoder_hidden": 32, "units": 5,
}  # fmt: skip
LENGTHS = LengthsConfig(budget=20, longest=2.0, shortest=0.04, buckets=1)


def reader_of_both(path: Path = BOTH, video: str = "video", audio: str = "audio") -> Reader:
    graph = Graph.from_file(path, args=SIZES)
    inputs = {video: LipsConfig(size=32, stored=32), audio: WaveConfig()}
    data = DataConfig(lengths=LENGTHS, inputs=inputs)
    return Reader(graph, data=data, units=UNITS, settings=Decoding(beam=2))


def test_a_reader_of_both_does_without_either_as_with_features_of_zero() -> None:
    reader = reader_of_both()
    assert reader.kind == "both" and not reader.training
    batch = {
        "video": torch.randn(2, 1, 6, 32, 32),
        "audio": torch.randn(2, 6, 640),
        "frames": torch.tensor([0, 1, 2, 3, 6, 7, 8, 9, 10, 11]),
    }
    memory, lengths = reader.encode(batch)
    assert memory.shape == (2, 6, 16) and lengths.tolist() == [4, 6]
    ports = {"audio": "a.tokens", "video": "v.tokens"}
    full = {**batch, "text": torch.empty(0)}
    tokens = {name: reader.graph(full, [key])[key] for name, key in ports.items()}
    with torch.no_grad():
        for name in ports:
            alone = {**tokens, name: torch.zeros(2, 6, 16)}
            wanted = reader.graph.get_submodule("join")(**alone)
            without = {key: value for key, value in batch.items() if key != name}
            torch.testing.assert_close(reader.encode(without)[0], wanted)
            assert len(reader.transcribe(without)) == 2
            assert not torch.allclose(wanted, memory)
    with pytest.raises(UserError, match="the batch has no 'video'"):
        reader.encode({"frames": batch["frames"]})


def test_inputs_may_have_any_name(tmp_path: Path) -> None:
    text = BOTH.read_text()
    for name, other in (("video", "lips"), ("audio", "wave")):
        text = text.replace(f"\n  {name}: [B", f"\n  {other}: [B").replace(
            f"batch.{name}", f"batch.{other}"
        )
    (tmp_path / "renamed.yaml").write_text(text)
    (tmp_path / "towers").symlink_to(CONFIGS / "towers")
    renamed = reader_of_both(tmp_path / "renamed.yaml", "lips", "wave")
    wave = torch.randn(2, 6, 640)
    found = renamed.encode({"wave": wave})[0]
    torch.testing.assert_close(found, reader_of_both().encode({"audio": wave})[0])


def test_a_reader_refuses_other_units() -> None:
    reader = reader_of_both()
    with pytest.raises(UserError, match="built for 5 units, and 4 are given"):
        Reader(
            reader.graph,
            data=reader.data,
            units=Units.characters("ab"),
            settings=reader.settings,
        )


class Stub:
    """Reads each clip as "ab"; the third batch is interrupted once."""

    def __init__(self) -> None:
        self.units, self.device = UNITS, torch.device("cpu")
        self.description: dict[str, str] = {"weights": "1"}
        self.read: list[int] = []
        self.interrupt = True

    def transcribe(self, batch: dict, *, settings: Decoding) -> list[Hypothesis]:
        self.read.append(len(batch["clip"]))
        if self.interrupt and len(self.read) == 3:
            self.interrupt = False
            raise KeyboardInterrupt
        return [Hypothesis([1, 2], -1.0, 0.5) for _ in batch["clip"]]


def test_reading_that_was_stopped_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = {"audio": WaveConfig()}
    source = str(write_clips(tmp_path / "clips"))
    (tmp_path / "clips" / "1.wav").write_bytes(b"RIFF damaged")
    data = DataConfig(source=source, cache=str(tmp_path), lengths=LENGTHS, inputs=inputs, workers=0)
    manifest = open_source(data)
    assert isinstance(manifest, Manifest)
    rows = [row for row, clip in enumerate(manifest.clips) if clip.split == "train"]
    stub = Stub()
    task = Task("train", stub, Decoding(beam=2), manifest, rows, data)  # type: ignore[arg-type]
    file = tmp_path / "train.jsonl"
    with pytest.raises(KeyboardInterrupt):
        transcribe_clips(task, file)
    done = len(file.read_text().splitlines()) - 1
    assert done == 1 + sum(stub.read[:2]) > 1  # the damaged one first
    with open(file, "a") as stream:
        stream.write('{"row": 5, "pa')  # the process was killed while it wrote
    found = transcribe_clips(task, file)
    assert f"train: {done} clips were done earlier" in capsys.readouterr().out
    assert [item.row for item in found] == rows
    assert sum(stub.read[:2]) + sum(stub.read[3:]) == len(TEXTS) - 1
    (broken,) = [item for item in found if item.failure]
    assert broken.path == "1.wav" and broken.text == ""
    assert {item.text for item in found if not item.failure} == {"ab"}
    before = list(stub.read)
    assert transcribe_clips(task, file) == found and stub.read == before
    stub.description["weights"] = "2"  # another reader: everything anew
    transcribe_clips(task, file)
    assert sum(stub.read) - sum(before) == len(TEXTS) - 1
    file.write_text(json.dumps(task.about()) + "\nno json\n")
    with pytest.raises(UserError, match="is damaged: remove it"):
        transcribe_clips(task, file)


def test_clips_that_cannot_be_read_are_told_from_the_start_on(tmp_path: Path) -> None:
    (tmp_path / "damaged.wav").write_bytes(b"RIFF damaged")
    write_tones(tmp_path / "long.wav", "ab" * 9)
    rows = [{"path": f"{name}.wav", "text": "a", "split": "test"} for name in ("damaged", "long")]
    source = str(write_manifest(tmp_path, rows))
    inputs = {"audio": WaveConfig()}
    data = DataConfig(source=source, cache=str(tmp_path), lengths=LENGTHS, inputs=inputs, workers=0)
    stub, manifest = Stub(), open_source(data)
    task = Task("test", stub, Decoding(beam=2), manifest, [0, 1], data)  # type: ignore[arg-type]
    for _ in range(2):  # anew, and where nothing else is left
        damaged, long = transcribe_clips(task, tmp_path / "test.jsonl")
        assert damaged.failure and "2.32 s long, data.lengths.longest is 2" in long.failure
        lines = (tmp_path / "test.jsonl").read_text().splitlines()
        (tmp_path / "test.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    assert stub.read == []


@pytest.mark.parametrize("name", ["audio.embed.proj.weight", "head.decoder.out.bias"])
def test_a_reader_that_diverged_says_so(name: str) -> None:
    reader = reader_of_both()
    with torch.no_grad():
        reader.graph.get_parameter(name).fill_(torch.nan)
    batch = {"video": torch.randn(1, 1, 5, 32, 32), "audio": torch.randn(1, 5, 640)}
    with pytest.raises(UserError, match="the model diverged, or its weights are damaged"):
        reader.transcribe(batch)

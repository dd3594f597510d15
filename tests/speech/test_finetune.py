"""tools/finetune.py from an experiment file to error rates, and the reader that it leaves."""

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from avssl.bench import decoding
from avssl.data.dataset import ClipDataset
from avssl.data.loader import make_eval_loader
from avssl.data.source import open_source
from avssl.errors import UserError
from avssl.files import metrics_rows
from avssl.graph.graph import Graph
from avssl.speech import job as finetuning
from avssl.speech.averaging import average
from avssl.speech.decoding import Decoding
from avssl.speech.job import finetune, prepare, reading_config
from avssl.speech.reader import Reader
from avssl.speech.scoring import error_rates
from avssl.train.loop import stage_seed
from avssl.train.run_folder import RunFolder
from tests.speech.tones import (
    CONFIGS,
    TEST_TEXTS,
    TEXTS,
    write_clips,
    write_experiment,
    write_tones,
)

GREEDY = Decoding(method="greedy")


def batch_of(reader: Reader, experiment: Path, paths: Sequence[str]) -> dict:
    """The clips of these names as one batch."""
    data = prepare(experiment, []).experiment.config.data
    data = reading_config(data, reader)
    manifest = open_source(data)
    clips = [clip for clip in manifest.clips if clip.path in paths]
    dataset = ClipDataset(
        replace(manifest, clips=clips), data, split=None, training=False, replace=False
    )
    (batch,) = make_eval_loader(dataset, data)
    return batch


def test_the_loss_falls_and_the_training_texts_are_read(experiment: Path, run: Path) -> None:
    losses = [row["loss"] for row in metrics_rows(run / "metrics.jsonl") if row["stage"] == "all"]
    assert losses[-1] < losses[0] / 10
    reader = Reader.load(run)
    batch = batch_of(reader, experiment, [f"{number}.wav" for number in range(len(TEXTS))])
    for settings in (GREEDY, reader.settings):
        found = reader.transcribe(batch, settings=settings)
        texts = [reader.units.decode(item.units) for item in found]
        assert sorted(texts) == sorted(TEXTS)
        assert all(0 < item.confidence <= 1 for item in found)


def test_results_name_clips_settings_and_mistakes(run: Path) -> None:
    results = json.loads((run / "transcripts" / "results.json").read_text())
    figures = results["splits"]["test"]
    assert (figures["clips"], figures["words"]) == (3, 4)
    assert figures["left_out"] == []
    assert results["decode"]["beam"] == 3 and results["reads"] == "audio"
    table = (run / "transcripts" / "results.md").read_text()
    assert "beam 3, CTC weight 0.3" in table
    assert f"| test | 3 | {100 * figures['wer']:.1f} |" in table
    with open(run / "transcripts" / "test.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["path"]: row["reference"] for row in rows} == {
        f"test{number}.wav": text for number, text in enumerate(TEST_TEXTS)
    }


def test_texts_that_training_lacks_are_read_better_than_without_training(
    experiment: Path, run: Path
) -> None:
    results = json.loads((run / "transcripts" / "results.json").read_text())
    reader = Reader.load(run)
    spec = prepare(experiment, []).experiment.instances[0].spec
    reader.graph.load_state_dict(Graph.from_spec(spec, seed=0).state_dict())
    batch = batch_of(reader, experiment, [f"test{n}.wav" for n in range(len(TEST_TEXTS))])
    found = [reader.units.decode(item.units) for item in reader.transcribe(batch)]
    untrained = error_rates([TEST_TEXTS[row] for row in batch["clip"].tolist()], found)
    assert results["splits"]["test"]["cer"] < 0.6 * untrained.cer


def test_a_frozen_encoder_stays_as_it_is_and_then_moves_on_from_there(
    experiment: Path, run: Path
) -> None:
    (first, _) = prepare(experiment, []).experiment.instances
    start = Graph.from_spec(first.spec, seed=stage_seed(0, "frozen")).state_dict()
    frozen = load_file(run / "checkpoints" / "frozen" / "step-000004" / "model.safetensors")
    last = load_file(run / "checkpoints" / "all" / "step-000080" / "model.safetensors")
    own = [name for name in start if name.startswith("audio.")]
    assert own and all(torch.equal(frozen[name], start[name]) for name in own)
    assert not torch.equal(frozen["head.ctc.proj.weight"], start["head.ctc.proj.weight"])
    assert not torch.equal(last["audio.embed.proj.weight"], start["audio.embed.proj.weight"])
    losses = {row["stage"]: row["loss"] for row in metrics_rows(run / "metrics.jsonl")[:5]}
    assert losses["all"] < 1.5 * losses["frozen"]  # it begins where the stage before ended


def test_the_reader_is_the_mean_of_the_last_checkpoints(run: Path) -> None:
    steps = [
        load_file(run / "checkpoints" / "all" / f"step-{step:06d}" / "model.safetensors")
        for step in (70, 80)
    ]
    for name, found in load_file(run / "reader" / "model.safetensors").items():
        pair = [weights[name] for weights in steps]
        wanted = (pair[0].double() + pair[1].double()) / 2 if found.is_floating_point() else pair[1]
        assert torch.equal(found, wanted.to(found.dtype)), name


def test_damaged_weights_of_a_reader_are_written_again(experiment: Path, run: Path) -> None:
    file = run / "reader" / "model.safetensors"
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-1] + bytes([whole[-1] ^ 1])):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"model\.safetensors (cannot be read|is not what)"):
            Reader.load(run)
        assert finetune(experiment) == 0
        assert file.read_bytes() == whole


def test_averages_are_exact(tmp_path: Path) -> None:
    values = [1.0, 2.0**-24, 2.0**-24, 0.5]  # in single precision the sum would lose the small ones
    for number, value in enumerate(values):
        (tmp_path / str(number)).mkdir()
        tensors = {"x": torch.tensor([value]), "count": torch.tensor(number)}
        save_file(tensors, tmp_path / str(number) / "model.safetensors")
    found = average([tmp_path / str(number) for number in range(4)])
    assert found["x"].item() == torch.tensor(sum(values) / 4).item() and found["count"] == 3


def test_a_reader_is_whole_in_its_folder(experiment: Path, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "reader", tmp_path / "elsewhere")
    moved, reader = Reader.load(tmp_path / "elsewhere"), Reader.load(run)
    batch = batch_of(reader, experiment, ["0.wav", "3.wav"])
    assert moved.transcribe(batch) == reader.transcribe(batch)
    for file in (run / "reader").rglob("*.yaml"):
        text = file.read_text()
        assert str(run.parent) not in text and str(CONFIGS) not in text
    args = yaml.safe_load((run / "reader" / "reader.yaml").read_text())["args"]
    assert args["init"] is None and args["head_init"] is None and args["width"] == 32


def test_a_clip_reads_the_same_alone_and_in_a_batch(experiment: Path, run: Path) -> None:
    reader = Reader.load(run)
    names = ["6.wav", "0.wav", "7.wav"]  # 2, 2 and 3 letters
    together = batch_of(reader, experiment, names)
    memory, lengths = reader.encode(together)
    assert lengths.tolist() == [10, 10, 13] and memory.shape == (3, 13, 32)
    log_probs = reader.ctc(memory)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(3, 13))
    for name in names:
        alone = batch_of(reader, experiment, [name])
        row = together["clip"].tolist().index(sorted(names).index(name))
        own, length = reader.encode(alone)
        torch.testing.assert_close(own[0], memory[row, : length[0]], atol=1e-5, rtol=1e-4)


def test_the_decoder_continues_texts_in_any_order_as_from_the_start(
    experiment: Path, run: Path
) -> None:
    reader = Reader.load(run)
    memory, lengths = reader.encode(batch_of(reader, experiment, ["0.wav", "7.wav"]))
    end, steady = reader.units.end, reader.scorer(memory, lengths)
    steady(torch.tensor([[end], [end]]), torch.tensor([0, 1]))
    steady(torch.tensor([[end, 1], [end, 2], [end, 1]]), torch.tensor([0, 0, 1]))
    prefixes = torch.tensor([[end, 1, 2], [end, 2, 2], [end, 1, 1], [end, 1, 3]])
    clips = torch.tensor([1, 0, 0, 1])
    found = steady(prefixes, clips)
    torch.testing.assert_close(found, reader.scorer(memory, lengths)(prefixes, clips))
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(4))
    jump = torch.tensor([[end, 2, 1, 1, 1]])  # continues none of them
    fresh = reader.scorer(memory, lengths)(jump, clips[:1])
    torch.testing.assert_close(steady(jump, clips[:1]), fresh)


def test_the_same_command_does_nothing_twice(
    experiment: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [run / "reader" / "model.safetensors", run / "metrics.jsonl"]
    before = [file.stat().st_mtime_ns for file in files]
    monkeypatch.setattr(Reader, "transcribe", None)  # nothing is read anew
    assert finetune(experiment) == 0
    assert [file.stat().st_mtime_ns for file in files] == before


def test_another_search_reads_anew_with_the_same_weights(experiment: Path, run: Path) -> None:
    copy = shutil.copytree(run, run.parent / "greedy")
    others = ["speech.decode={method: beam, beam: 2, lm_weight: 0.2}", "speech.lm={type: ngram}"]
    assert finetune(experiment, [f"run={copy}", *others]) == 0
    assert (
        "beam 2, CTC weight 0.1, language model 0.2"
        in (copy / "transcripts" / "results.md").read_text()
    )
    assert Reader.load(copy).lm is not None and Reader.load(run).lm is None
    (copy / "reader" / "lm.safetensors").unlink()
    with pytest.raises(UserError, match=r"lacks lm\.safetensors"):
        Reader.load(copy)
    assert finetune(experiment, [f"run={copy}", *others]) == 0
    assert Reader.load(copy).lm is not None
    assert finetune(experiment, [f"run={copy}", "speech.decode.method=greedy"]) == 0
    results = json.loads((copy / "transcripts" / "results.json").read_text())
    assert results["decode"]["method"] == "greedy" and Reader.load(copy).lm is None
    assert Reader.load(copy).settings == Decoding("greedy", beam=3, ctc_weight=0.3)


def test_other_transcripts_make_another_language_model(
    experiment: Path, run: Path, tmp_path: Path
) -> None:
    clips = shutil.copytree(experiment.parent / "clips", tmp_path / "clips")
    copy = shutil.copytree(run, tmp_path / "run")
    given = [f"run={copy}", "speech.lm={type: ngram}", "speech.decode.lm_weight=0.2"]
    edited = write_experiment(tmp_path / "tones.yaml", clips / "manifest.csv")
    assert finetune(edited, given) == 0
    places = [copy / "reader" / name for name in ("lm.safetensors", "model.safetensors")]
    lm, weights = (file.read_bytes() for file in places)
    table = (clips / "manifest.csv").read_text()
    (clips / "manifest.csv").write_text(table.replace(",AB,train", ",AAAA,train"))
    assert finetune(edited, given) == 0
    assert places[0].read_bytes() != lm and places[1].read_bytes() == weights


def test_a_run_does_not_go_on_with_other_transcripts(
    experiment: Path, run: Path, tmp_path: Path
) -> None:
    clips = shutil.copytree(experiment.parent / "clips", tmp_path / "clips")
    copy = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(copy / "checkpoints" / "all" / "step-000080")  # as if it had been stopped
    edited = write_experiment(tmp_path / "tones.yaml", clips / "manifest.csv")
    table = (clips / "manifest.csv").read_text()
    (clips / "manifest.csv").write_text(table.replace(",AB,train", ",BA,train"))
    with pytest.raises(UserError, match=r"all was started on the train clips 8 .* transcripts"):
        finetune(edited, [f"run={copy}"])


def test_searches_are_compared(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rates are those of the run's own results; beam search that reads worse fails."""
    code = decoding.main([str(run), "--split", "test", "--beam", "3"])
    said = capsys.readouterr().out
    greedy, beam = (float(rate) for rate in re.findall(r"WER +([\d.]+) %", said))
    results = json.loads((run / "transcripts" / "results.json").read_text())
    assert beam == round(100 * results["splits"]["test"]["wer"], 1)
    assert max(float(factor) for factor in re.findall(r"factor ([\d.]+)", said)) < 1
    assert code == (beam > greedy)
    decoding.main([str(run), "--split", "test", "--clips", "2"])
    assert "2 clips" in capsys.readouterr().out


def test_pieces_are_trained_once_in_the_run_folder(experiment: Path, tmp_path: Path) -> None:
    given = [f"run={tmp_path / 'run'}", "speech.pieces=5", "args.units=7"]
    job = prepare(experiment, given)
    made = (tmp_path / "run" / "units.model").read_bytes()
    assert len(job.units) == 7 and job.units.model == made
    again = [job.units.decode(job.units.encode(text)) for text in TEXTS]
    assert again == [text.upper() for text in TEXTS]  # as the transcripts are written
    assert prepare(experiment, given).units == job.units
    with pytest.raises(UserError, match=r"has 5 pieces, and speech.pieces is 4"):
        prepare(experiment, [*given, "speech.pieces=4", "args.units=6"])
    with pytest.raises(UserError, match="trained on other transcripts"):
        prepare(experiment, [*given, "data.train_share=0.6"])


def test_units_whose_training_was_stopped_leave_the_run_folder_usable(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(texts: list[str], path: Path, *, size: int) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    run = tmp_path / "run"
    given = [f"run={run}", "speech.pieces=5", "args.units=7", "stages.frozen.steps=1"]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(finetuning, "train_sentencepiece", stopped)
        finetune(experiment, given)
    assert [item.name for item in run.iterdir()] == ["units.sha256"]
    (run / ".units.1.tmp").write_bytes(b"half")  # of a process that was killed
    config = prepare(experiment, given).experiment.config
    RunFolder(run).claim(config, {}, [CONFIGS / "graphs" / "speech_audio.yaml"])
    assert (run / "config.yaml").is_file()


GREEDY_LM = ["speech.decode={method: greedy, lm_weight: 0.3}"]
MISTAKES = [
    (["args.units=9"], "set args.units=5"),
    (["train.keep=1"], "set train.keep=2"),
    (["speech=null"], "no section 'speech'"),
    (["speech.splits=[val, test]"], "no clip in the split 'val' (it has test 3, train 8)"),
    (["speech.splits=[dev]"], "splits must be some of train, val, test"),
    (["speech.average=0"], "average must be at least 1"),
    (["speech.decode.beam=0"], "beam must be from 1 to 1000"),
    (["speech.decode.lm_weight=0.3"], "no language model"),
    (["speech.lm={type: unigram}"], "'unigram'"),
    (["speech.lm={type: ngram}"], "decode.lm_weight is 0"),
    (["speech.lm={type: ngram}", *GREEDY_LM], "method: greedy takes no language model"),
    (["speech.pieces=500"], "cannot make 500 pieces"),
    (["data.inputs.text.alphabet=abab"], "twice"),
    (["data.source=nowhere"], "nowhere"),
    (["stages.all.graph=nowhere.yaml"], "no graph file"),
]


@pytest.mark.parametrize(("overrides", "said"), MISTAKES)
def test_mistakes_are_sentences(
    experiment: Path, tmp_path: Path, overrides: list[str], said: str
) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        finetune(experiment, [f"run={tmp_path / 'run'}", *overrides])
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_split_without_a_readable_clip_is_told_before_the_training(tmp_path: Path) -> None:
    source = write_clips(tmp_path / "clips")
    for path in source.parent.glob("test*.wav"):
        path.write_bytes(b"no sound")
    path = write_experiment(tmp_path / "tones.yaml", source)
    with pytest.raises(UserError, match=r"none of the 3 clips of the split 'test' .* test0\.wav: "):
        finetune(path)
    assert not list(tmp_path.glob("run/checkpoints/*/step-*"))


def test_a_split_of_clips_that_are_all_too_long_is_told_before_the_training(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips").parent
    for path in clips.glob("test*.wav"):
        write_tones(path, "ab" * 9)  # 2.32 s; data.lengths.longest is 2
    path = write_experiment(tmp_path / "tones.yaml", clips / "manifest.csv")
    with pytest.raises(UserError, match=r"'test' .* is 2\.32 s long, data\.lengths\.longest is 2"):
        finetune(path)
    assert not list(tmp_path.glob("run/checkpoints/*/step-*"))


def test_rates_of_pretrained_weights_for_fresh_ones_are_warned_of(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(finetuning, "train", lambda path, given: 1)
    given = [f"run={tmp_path / 'run'}", "stages.frozen.args.layer_decay=0.5"]
    assert finetune(experiment, [*given, "stages.frozen.args.freeze=false"]) == 1
    assert "audio has fresh weights, whose lower layers" in capsys.readouterr().out
    assert finetune(experiment, [*given, "stages.frozen.args.freeze=true"]) == 1
    assert "audio has fresh weights and is frozen" in capsys.readouterr().out
    assert finetune(experiment, [given[0], "stages.frozen.args.freeze=false"]) == 1
    assert "fresh" not in capsys.readouterr().out


def test_the_tool_ends_with_2_and_a_sentence(experiment: Path) -> None:
    tool = CONFIGS.parent / "tools" / "finetune.py"
    given = [str(experiment), "--min-confidence", "0.5"]
    done = subprocess.run([sys.executable, tool, *given], capture_output=True, text=True)
    assert done.returncode == 2 and "--pseudo-label" in done.stderr
    assert "Traceback" not in done.stderr


def test_folders_that_hold_no_reader_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no reader"):
        Reader.load(tmp_path)
    shutil.copytree(run / "reader", tmp_path / "reader")
    (tmp_path / "reader" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match="cannot be read"):
        Reader.load(tmp_path)

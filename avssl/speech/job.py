"""A recogniser from its experiment file to its error rates: units, training, averaging, reading.

What it adds to a run folder::

    units.model     SentencePiece units, where they were trained
    units.sha256    of the transcripts that they were trained on
    reader/         `avssl.speech.reader.Reader`
    transcripts/    results.json  results.md  test.csv (path, reference, hypothesis, confidence)
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from avssl.data.config import DataConfig
from avssl.data.length_config import TextConfig
from avssl.data.source import open_source
from avssl.data.usable import Check, in_share, nothing_usable, open_units
from avssl.errors import UserError
from avssl.finetune.read import refuse_classifier_file
from avssl.optional import need
from avssl.speech.config import SpeechConfig
from avssl.speech.reader import FOLDER, READER, Reader, find_head, text_recipe
from avssl.speech.results import score_split, scored_rows, write_results
from avssl.speech.store import write_reader
from avssl.speech.transcripts import WholeClips
from avssl.speech.units import Units, texts_checksum, train_sentencepiece
from avssl.train.experiment import LoadedExperiment, load_experiment
from avssl.train.run import train
from avssl.train.run_folder import HALF_UNITS, TEXTS, UNITS


@dataclass(frozen=True)
class Job:
    """An experiment and what it recognises.

    Attributes:
        path, overrides: of the experiment file, units filled in.
        experiment: read and checked. speech: its section.
        units: of transcripts.
    """

    path: Path
    overrides: list[str]
    experiment: LoadedExperiment
    speech: SpeechConfig
    units: Units

    @property
    def run(self) -> Path:
        """The run folder."""
        return Path(self.experiment.config.run).expanduser()


def finetune(path: Path, overrides: Sequence[str] = ()) -> int:
    """Train a recogniser, or continue it, up to its error rates.

    Returns:
        0, or 128 + the signal that ended the training before.

    Raises:
        UserError: what is wrong with the file, the data or the run folder.
    """
    job = prepare(path, overrides)
    need("jiwer", extra="speech", purpose="scoring transcripts")  # not after hours of training
    data = job.experiment.config.data
    manifest = open_source(data)
    check = WholeClips(scoring_config(data))
    for name in job.speech.splits:  # what cannot be scored is told before the training
        rows = [manifest.clips[row] for row in scored_rows(manifest, job.units, split=name)]
        reasons = [check.reason(row) for row in rows]
        if all(reasons):
            left_out = [(row.path, why) for row, why in zip(rows, reasons, strict=True)]
            raise UserError(nothing_usable(manifest, name, left_out))
    for sentence in _fresh(job):
        print(sentence, flush=True)
    code = train(job.path, job.overrides)
    if code or int(os.environ.get("RANK", "0")):
        return code
    reader = finished_reader(job)
    config = reading_config(data, reader)
    found = {
        name: score_split(reader, manifest, config, split=name, folder=job.run / "transcripts")
        for name in job.speech.splits
    }
    write_results(found, job.run / "transcripts", reader, name=job.experiment.config.name)
    return 0


def prepare(path: Path, overrides: Sequence[str]) -> Job:
    """Read the file, train its units if it asks for that, and hold them against the graph.

    Raises:
        ConfigError: mistakes in the file or its graphs.
        UserError: it is for a classifier, or has no `speech` section, or units that do not fit.
    """
    refuse_classifier_file(path)
    experiment = load_experiment(path, overrides, shapes=False)
    config = experiment.config
    if config.speech is None:
        raise UserError(
            f"{path} has no section 'speech', which says how speech is recognised: see "
            "configs/finetune/vsr.yaml"
        )
    if config.train.keep < config.speech.average:
        raise UserError(
            f"speech.average takes {config.speech.average} checkpoints, but train.keep keeps "
            f"{config.train.keep}: set train.keep={config.speech.average}"
        )
    given = list(overrides)
    recipe = text_recipe(config.data)
    if config.speech.pieces is not None:
        model = Path(config.run).expanduser() / UNITS
        _train_units(model, config.data, config.speech.pieces)
        name = next(n for n, item in config.data.inputs.items() if item is recipe)
        where = json.dumps(str(model))  # in quotes, whatever its name holds
        given += [f"data.inputs.{name}.{key}" for key in ("units=sentencepiece", f"model={where}")]
        experiment = load_experiment(path, given, shapes=False)
        recipe = text_recipe(experiment.config.data)
    units = open_units(recipe)
    _check_units(experiment, units)
    return Job(path, given, experiment, config.speech, units)


def finished_reader(job: Job) -> Reader:
    """Write the reader of a finished run, and read it again, to the device of the training."""
    data, lm = job.experiment.config.data, job.speech.lm
    texts = transcripts_of(data, job.units) if lm is not None else []
    for sentence in write_reader(job.run, job.run / FOLDER, job.speech, job.units, texts):
        print(sentence, flush=True)
    print(f"written: {job.run / FOLDER / READER}", flush=True)
    return Reader.load(job.run / FOLDER, reading_device(job))


def reading_device(job: Job) -> str:
    """Where clips are read: where the training was."""
    cuda = job.experiment.config.train.device != "cpu" and torch.cuda.is_available()
    return "cuda" if cuda else "cpu"


def reading_config(data: DataConfig, reader: Reader) -> DataConfig:
    """How clips are read for a reader, whatever they say.

    Args:
        data: of the experiment: where clips come from, workers and so on.
    """
    return scoring_config(replace(data, inputs=reader.data.inputs, lengths=reader.data.lengths))


def scoring_config(data: DataConfig) -> DataConfig:
    """How clips are read for scoring: all of them, however short, and without transcripts."""
    assert data.lengths is not None
    inputs = dict(data.inputs)
    for name, item in data.inputs.items():
        if isinstance(item, TextConfig):
            del inputs[name]
    lengths = replace(data.lengths, shortest=1 / data.rate)
    return replace(data, inputs=inputs, lengths=lengths, train_share=1.0)


def transcripts_of(data: DataConfig, units: Units | None = None) -> list[str]:
    """Transcripts of the train split that training uses: those with units, where these are given.

    Raises:
        UserError: there is none.
    """
    share = [
        clip
        for clip in open_source(data).clips
        if clip.split == "train" and in_share(clip.path, data.train_share)
    ]
    if units is None:
        texts = [clip.text for clip in share if clip.text.strip()]
    else:
        check = Check(data)
        texts = [clip.text for clip in share if not check.reason(clip)]
    if not texts:
        raise UserError(
            f"no train clip of {data.source} has a transcript: fill the column 'text' of its "
            "manifest"
        )
    return texts


def _train_units(model: Path, data: DataConfig, pieces: int) -> None:
    """Train SentencePiece units, unless the run has them.

    Raises:
        UserError: the transcripts do not give that many, or are others than before.
    """
    beside = model.with_name(TEXTS)
    if model.is_file():
        units = Units.sentencepiece(model)
        if len(units) != pieces + 2:
            raise UserError(
                f"{model} has {len(units) - 2} pieces, and speech.pieces is {pieces}: give another "
                "run folder with run=..."
            )
        if beside.is_file() and beside.read_text() != texts_checksum(transcripts_of(data)):
            raise UserError(
                f"{model} was trained on other transcripts than those of {data.source} now: give "
                "another run folder with run=..., or remove this one"
            )
        return  # without a checksum they were given, as round 1 gives them to round 2
    texts = transcripts_of(data)
    model.parent.mkdir(parents=True, exist_ok=True)
    half = model.with_name(HALF_UNITS.replace("*", str(os.getpid())))
    try:  # under torchrun all train the same
        half.write_text(texts_checksum(texts))
        half.replace(beside)
        train_sentencepiece(texts, half, size=pieces)
        half.replace(model)
    finally:
        half.unlink(missing_ok=True)
    print(f"{pieces} pieces trained on {len(texts)} transcripts: {model}", flush=True)


def _fresh(job: Job) -> Iterator[str]:
    """What to say of encoders that start from fresh weights, as if from pre-trained ones."""
    spec = job.experiment.instances[0].spec
    for name, module in spec.modules.items():
        options = module.options
        if options.init_from is not None or name == find_head(spec)[0]:
            continue
        if options.freeze:
            yield f"warning: {name} has fresh weights and is frozen: name pre-trained ones"
        elif options.layer_decay not in (None, 1):
            yield (
                f"warning: {name} has fresh weights, whose lower layers learn more slowly "
                f"(layer_decay {options.layer_decay:g}): name pre-trained ones, or set it to 1"
            )


def _check_units(experiment: LoadedExperiment, units: Units) -> None:
    """Raises UserError where the last stage recognises no speech, or other units."""
    spec = experiment.instances[-1].spec
    head, _ = find_head(spec)
    inner = spec.modules[head].graph
    assert inner is not None
    decoder = next(m for m in inner.modules.values() if m.block == "text_decoder")
    built = decoder.arguments["units"]
    if built != len(units):
        raise UserError(
            f"data.inputs has {len(units)} units (blank, {len(units) - 2} of text, begin and end), "
            f"but the graph is built for {built}: set args.units={len(units)}"
        )

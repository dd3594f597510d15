"""Writing a reader's folder from a finished run: averaged weights and all that reading needs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file

from avssl.files import half_written, write_whole
from avssl.graph.source import Problems, read_yaml
from avssl.graph.spec import GraphSpec
from avssl.speech.averaging import average, fingerprint, last_checkpoints
from avssl.speech.config import NgramConfig, SpeechConfig, TransformerConfig
from avssl.speech.lm import LanguageModel, save_lm
from avssl.speech.ngram import NgramLM
from avssl.speech.reader import LM, READER, UNITS, WEIGHTS
from avssl.speech.transformer_lm import train_transformer
from avssl.speech.units import Units, texts_checksum
from avssl.train.checkpoint import MODEL, read_state, write_tensors
from avssl.train.experiment import load_experiment


def write_reader(
    run: Path, folder: Path, speech: SpeechConfig, units: Units, texts: Sequence[str]
) -> list[str]:
    """Average the newest checkpoints of the last stage of a run, and write the reader; weights that
    are there already, and intact, stay, and so does a language model of the same texts.

    Args:
        run: the run folder. folder: of the reader.
        texts: transcripts of the train split, for the language model.

    Returns:
        What there is to say of it, line by line.

    Raises:
        UserError: there is no intact checkpoint.
    """
    experiment = load_experiment(run / "config.yaml", shapes=False)
    instance = experiment.instances[-1]
    checkpoints, said = last_checkpoints(run / "checkpoints" / instance.name, speech.average)
    sums = dict(map(_checksum, checkpoints))
    fewer = f" ({speech.average} asked for)" if len(sums) < speech.average else ""
    said.append(f"mean of {len(sums)} checkpoints{fewer}: steps {', '.join(sums)}")
    lm = None if speech.lm is None else {**asdict(speech.lm), "texts": texts_checksum(texts)}
    origin = {"checkpoints": sums, "lm": lm}
    folder.mkdir(parents=True, exist_ok=True)
    for file in instance.spec.files:
        place = folder / file.resolve().relative_to(run.resolve())
        write_whole(place, file.read_text(encoding="utf-8"))
    if units.model is not None:
        half_written(folder / UNITS).write_bytes(units.model)
        half_written(folder / UNITS).replace(folder / UNITS)
    earlier = _description(folder / READER)
    digits = earlier.get("weights")
    same = all(earlier.get(key) == value for key, value in origin.items())
    whole = _holds(folder / WEIGHTS, digits) and (speech.lm is None or (folder / LM).is_file())
    if not same or not whole:
        weights = average(checkpoints)
        digits = fingerprint(weights)
        write_tensors(weights, half_written(folder / WEIGHTS))
        half_written(folder / WEIGHTS).replace(folder / WEIGHTS)
        _write_lm(folder / LM, speech, units, texts)
    data = experiment.config.data
    inputs = {name: asdict(recipe) for name, recipe in data.inputs.items()}
    for recipe in inputs.values():
        if recipe.get("model") is not None:
            recipe["model"] = UNITS
    assert data.lengths is not None
    lengths = replace(data.lengths, budget=speech.budget)  # of one process that reads
    about = {
        "name": experiment.config.name,
        "graph": _relative(instance.spec, run),
        "args": _without_starts(instance.spec),
        "data": {"lengths": asdict(lengths), "inputs": inputs},
        "decode": asdict(speech.decode),
        "description": {
            "stage": instance.name,
            "seed": experiment.config.seed,
            **origin,
            "weights": digits,
        },
    }
    write_whole(folder / READER, yaml.safe_dump(about, sort_keys=False, allow_unicode=True))
    return said


def _checksum(checkpoint: Path) -> tuple[str, str]:
    """Step of a checkpoint, and 16 digits of the checksum of its weights."""
    progress, files = read_state(checkpoint)
    return str(progress.step), files[MODEL]["sha256"][:16]


def _description(path: Path) -> dict[str, Any]:
    """What an earlier reader says of its weights; nothing where there is none, or a damaged one."""
    try:
        return dict(yaml.safe_load(path.read_text(encoding="utf-8"))["description"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return {}


def _holds(path: Path, digits: str | None) -> bool:
    """Whether a file has the weights of these digits, undamaged."""
    try:
        return fingerprint(load_file(path)) == digits
    except (OSError, SafetensorError):
        return False


def train_lm(
    config: NgramConfig | TransformerConfig, units: Units, texts: Sequence[str]
) -> LanguageModel:
    """A language model of transcripts."""
    encoded = [units.encode(text) for text in texts]
    if isinstance(config, NgramConfig):
        return NgramLM.train(encoded, units=len(units), order=config.order)
    return train_transformer(encoded, units=len(units), config=config)


def _write_lm(path: Path, speech: SpeechConfig, units: Units, texts: Sequence[str]) -> None:
    if speech.lm is None:
        path.unlink(missing_ok=True)
    else:
        save_lm(train_lm(speech.lm, units, texts), path, units=units)


def _relative(spec: GraphSpec, run: Path) -> str:
    assert spec.path is not None
    return spec.path.resolve().relative_to(run.resolve()).as_posix()


def _without_starts(spec: GraphSpec) -> dict[str, Any]:
    """The graph's arguments; those that said where training starts are null."""
    assert spec.path is not None
    document = read_yaml(spec.path, Problems())
    modules = document.data.get("modules", {}) if document is not None else {}
    starts = {
        found[1]
        for module in modules.values()
        if (found := re.fullmatch(r"\$\{args\.(\w+)\}", str(module.get("init_from"))))
    }
    return {name: None if name in starts else value for name, value in spec.arguments.items()}

"""The card beside an export: what it is, how inputs are made, how to load it, what it scored."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

import avssl
from avssl.data.config import FbankConfig, FramesConfig
from avssl.data.length_config import LipsConfig, WaveConfig
from avssl.encoders.layers import blocks_of
from avssl.export.examples import example, notes, shape
from avssl.export.source import Source

CARDS = {
    "safetensors": "card.md",
    "timm": "README.md",
    "hf": "README.md",
    "onnx": "card.md",
    "avsuperb": "card.md",
}
LIBRARIES = {"timm": "timm", "hf": "transformers"}
# identifiers that the front matter of a model card may hold
LICENCES = frozenset(
    "apache-2.0 mit bsd-2-clause bsd-3-clause cc0-1.0 cc-by-4.0 cc-by-sa-4.0 cc-by-nc-4.0 "
    "cc-by-nc-sa-4.0 cc-by-nc-nd-4.0 cc-by-nd-4.0".split()
)


def card(source: Source, kind: str, *, worst: float, out: Path) -> str:
    """The card as Markdown.

    worst: largest difference between the encoder and what was written. out: the folder's name is
    used in the example.
    """
    parts = [
        *_front_matter(source, kind),
        f"# {source.encoders.name}: {source.module}",
        _summary(source, kind, worst),
        "## Load",
        f"```python\n{example(source, kind, out.name)}\n```",
        *notes(source, kind, out.name),
        "## Inputs",
        "\n".join(_inputs(source)),
        *_figures(source),
        "## Where it comes from",
        "\n".join(_origin(source)),
        "## Configuration",
        f"```yaml\n{_configuration(source)}```",
        "## Licence",
        _licence(source),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(source: Source, kind: str) -> Iterator[str]:
    if kind not in LIBRARIES:
        return
    kinds = {FbankConfig: "audio", FramesConfig: "video"}
    tags = ["avssl", *sorted({kinds[type(item)] for item in source.encoder.fixed_inputs.values()})]
    matter = {
        "library_name": LIBRARIES[kind],
        "pipeline_tag": "feature-extraction",
        **licence_fields(str(source.description.get("licence", ""))),
        "tags": tags,
    }
    yield f"---\n{yaml.safe_dump(matter, sort_keys=False, allow_unicode=True)}---"


def licence_fields(text: str) -> dict[str, str]:
    """A licence as the front matter of a model card has it: by its identifier, or "other" and its
    name in small letters, unless the text is a sentence about it. A remark in brackets at its end
    does not count."""
    name = re.sub(r"\s*\([^()]*\)$", "", text.strip()).lower().replace(" ", "-")
    if name in LICENCES:
        return {"license": name}
    plain = re.fullmatch(r"[a-z0-9.-]+", name)
    return {"license": "other", **({"license_name": name} if plain else {})}


def _summary(source: Source, kind: str, worst: float) -> str:
    encoder = source.encoder
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    heard = " and ".join(
        "sound" if isinstance(item, FbankConfig | WaveConfig) else "pictures"
        for item in encoder.inputs.values()
    )
    text = (
        f"An encoder of {heard}: {_blocks(source)}, features of width {encoder.width}, "
        f"{parameters / 1e6:.2f} M parameters, fingerprint `{encoder.fingerprint}`. Written by "
        f"avssl {avssl.__version__} as {kind}; its features differ from the encoder's by at most "
        f"{worst:.1e} on random inputs, over the largest feature where that is above 1."
    )
    return text


def _blocks(source: Source) -> str:
    """How many transformer blocks each part has."""
    parts = dict(source.encoder.towers.items())
    if source.fusion is not None and source.encoder.fusion is not None:
        parts[source.fusion.module] = source.encoder.fusion
    counts = {name: len(blocks_of(part)) for name, part in parts.items()}
    if len(counts) == 1:
        return f"{next(iter(counts.values()))} blocks"
    return "blocks " + ", ".join(f"{name} {count}" for name, count in counts.items())


def _inputs(source: Source) -> Iterator[str]:
    """Preparation of each input, with numbers."""
    if source.encoder.data.lengths is not None:
        yield from _own_length(source)
        return
    padded = [
        name
        for name, recipe in source.encoder.fixed_inputs.items()
        if isinstance(recipe, FbankConfig) and recipe.short == "pad"
    ]
    rest = f"; {' and '.join(padded)} shorter than that has zeros behind it" if padded else ""
    yield (
        f"The encoder was trained on windows of {source.encoder.data.window:g} s. avssl cuts "
        f"longer clips into such windows and repeats shorter ones{rest}.\n"
    )
    for name, recipe in source.encoder.fixed_inputs.items():
        size = shape(source, name)
        if isinstance(recipe, FbankConfig):
            sign = "+" if recipe.mean < 0 else "-"
            yield (
                f"- {name}, {size}: {recipe.sample_rate} Hz, mean of the channels, minus its "
                f"mean; Kaldi log-mel filterbank of {recipe.bins} bins (25 ms Hanning window, "
                "10 ms shift, htk_compat, no energy, no dither), padded with zeros or cut to "
                f"{recipe.frames} rows; then (x {sign} {abs(recipe.mean):g}) / (2 x "
                f"{recipe.std:g})."
            )
        else:
            seconds = source.encoder.data.window if recipe.seconds is None else recipe.seconds
            where = {
                "window": f"at uniform times of {seconds:g} s",
                "dense": f"with a stride of {recipe.stride} pictures of the file",
                "segments": "from the middles of equal parts of the clip",
            }[recipe.sampling]
            yield (
                f"- {name}, {size}: {recipe.frames} RGB picture"
                f"{'s' if recipe.frames > 1 else ''} {where}, shorter "
                f"side to {recipe.size}, centre crop; then (x / 255 - mean) / std with mean "
                f"{list(recipe.mean)} and std {list(recipe.std)}."
            )


def _own_length(source: Source) -> Iterator[str]:
    """Preparation where clips keep their own length."""
    yield "Clips keep their own length; `frames` tells the real ones of a batch from padding.\n"
    for name, recipe in source.encoder.inputs.items():
        size = shape(source, name)
        if isinstance(recipe, WaveConfig):
            yield (
                f"- {name}, {size}: the waveform in [-1, 1], {recipe.sample_rate} Hz, mean of the "
                f"channels, cut into frames of {recipe.samples} samples; zeros behind a clip's end."
            )
        elif isinstance(recipe, LipsConfig):
            yield (
                f"- {name}, {size}: square mouth crops, {recipe.rate} a second, grey, "
                f"{recipe.stored} pixels on a side, their centre of {recipe.size}; then (x / 255 - "
                f"{recipe.mean:g}) / {recipe.std:g}; zeros behind a clip's end."
            )


def _figures(source: Source) -> Iterator[str]:
    """What the run measured for this encoder's inputs, where it did."""
    if source.teacher:
        return  # the run measured its student
    figures = source.figures()
    inputs = list(source.encoder.inputs)
    key = inputs[0] if len(inputs) == 1 else "both"
    rows = []
    for title, part in (("linear probe", "linear"), ("kNN", "knn")):
        value = _number(figures, part, key)
        if value is not None:
            rows.append(f"| {title}, {key}, top-1 | {100 * value:.1f} % |")
    majority = _number(figures, "majority")
    if rows and majority is not None:
        rows.append(f"| most frequent class | {100 * majority:.1f} % |")
    retrieval = figures.get("retrieval")
    if isinstance(retrieval, Mapping):
        for way, scores in retrieval.items():
            if _number(scores, "r1") is not None:
                rows.append(
                    f"| {str(way).replace('_', ' ')} R@1 among {scores.get('clips')} clips "
                    f"| {100 * scores['r1']:.1f} % |"
                )
    if rows:
        clips = figures.get("clips")
        yield "## Figures"
        yield (
            f"The run's own, on {clips} test clips of its data; probes read the mean over a "
            "tower's patches (both: of both towers, before their fusion):\n\n| | |\n|---|---:|\n"
            + "\n".join(rows)
        )


def _number(values: Any, *path: str) -> float | None:
    for key in path:
        values = values.get(key) if isinstance(values, Mapping) else None
    return float(values) if isinstance(values, (int, float)) else None


def _origin(source: Source) -> Iterator[str]:
    """Run, stage, data, as the model describes itself."""
    for key, value in source.description.items():
        yield f"- {key}: {value}"
    yield f"- module: {source.module}"
    yield f"- fingerprint: {source.encoder.fingerprint}"


def _licence(source: Source) -> str:
    code = "The code that wrote this folder and runs it is avssl, Apache-2.0."
    known = source.description
    if not source.foreign:
        return (
            f"{code} The weights belong to whoever trained them; what the training data allow is "
            "for them to say. No data are in this folder."
        )
    parts = [code, "The weights in this folder are not avssl's: another project trained them."]
    for key, title in (("source", "Source"), ("data", "Training data")):
        if key in known:
            parts.append(f"{title}: {str(known[key]).rstrip('.')}.")
    if "licence" in known:
        parts.append(f"Licence of the weights: {str(known['licence']).rstrip('.')}.")
    else:
        parts.append(
            "Their licence is not known here: ask whoever published them before passing them on."
        )
    return " ".join(parts)


def _configuration(source: Source) -> str:
    """Arguments of the modules, then how the inputs are made."""
    spec = source.encoders.model.spec
    fusion = source.fusion
    names = [*source.towers, *([fusion.module] if fusion else [])]
    modules: dict[str, Any] = {}
    for name in names:
        graph = spec.modules[name].graph
        assert graph is not None and graph.path is not None
        modules[name] = {"file": graph.path.name, **graph.arguments}
    return yaml.safe_dump(json.loads(json.dumps({"modules": modules})), sort_keys=False)

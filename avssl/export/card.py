"""The card beside an export: what it is, how inputs are made, how to load it, what it scored."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

import avssl
from avssl.blocks.transformer import Block
from avssl.data.config import FbankConfig, FramesConfig
from avssl.encoders.encoder import Encoder
from avssl.export.benchmark_folder import entry_name
from avssl.export.source import Source

CARDS = {
    "safetensors": "card.md",
    "timm": "README.md",
    "hf": "README.md",
    "onnx": "card.md",
    "avsuperb": "card.md",
}
LIBRARIES = {"timm": "timm", "hf": "transformers"}


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
        f"```python\n{_example(source, kind, out.name)}\n```",
        "## Inputs",
        "\n".join(_inputs(source)),
        *_figures(source),
        "## Where it comes from",
        "\n".join(_origin(source)),
        "## Configuration",
        f"```yaml\n{_configuration(source)}```",
        "## Licence",
        "The code that wrote this folder and runs it is avssl, Apache-2.0. The weights belong to "
        "whoever trained them; what the training data allow is for them to say. No data are in "
        "this folder.",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(source: Source, kind: str) -> Iterator[str]:
    if kind not in LIBRARIES:
        return
    kinds = {FbankConfig: "audio", FramesConfig: "video"}
    tags = ["avssl", *sorted({kinds[type(item)] for item in source.encoder.inputs.values()})]
    matter = {
        "library_name": LIBRARIES[kind],
        "pipeline_tag": "feature-extraction",
        "license": "other",
        "tags": tags,
    }
    yield f"---\n{yaml.safe_dump(matter, sort_keys=False)}---"


def _summary(source: Source, kind: str, worst: float) -> str:
    encoder = source.encoder
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    heard = " and ".join(
        "sound" if isinstance(item, FbankConfig) else "pictures" for item in encoder.inputs.values()
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
    counts = {
        name: sum(isinstance(child, Block) for child in part.modules())
        for name, part in parts.items()
    }
    if len(counts) == 1:
        return f"{next(iter(counts.values()))} blocks"
    return "blocks " + ", ".join(f"{name} {count}" for name, count in counts.items())


def _example(source: Source, kind: str, folder: str) -> str:
    encoder = source.encoder
    names = list(encoder.inputs)
    if kind == "safetensors":
        call = _call(encoder)
        return f'import avssl\n\nencoder = avssl.load("{folder}", module="{source.module}")\n{call}'
    if kind == "timm":
        return (
            "import timm\n\n"
            f'model = timm.create_model("local-dir:{folder}", pretrained=True).eval()\n'
            f"model(x)  # {_shapes(source, names[0])} -> [B, {encoder.width}], the mean over "
            "patches\nmodel.forward_features(x)  # tokens, CLS first"
        )
    if kind == "hf":
        return _hf_example(source, folder)
    if kind == "onnx":
        feeds = ", ".join(f'"{name}": {name}' for name in names)
        shapes = "; ".join(f"{name} {_shapes(source, name)}" for name in names)
        return (
            "import onnxruntime\n\n"
            f'session = onnxruntime.InferenceSession("{folder}/model.onnx")\n'
            f"*tokens, pooled = session.run(None, {{{feeds}}})  # float32\n"
            f"# {shapes}; any B; a shorter axis 2 in whole patches"
        )
    name = entry_name(source)
    return (
        "import torch\n\n"
        f'upstream = torch.hub.load("{folder}", "{name}", source="local")\n'
        "pair = upstream.preprocess_audio(wav, 16000), upstream.preprocess_video(pictures, 25)\n"
        "upstream([pair])  # audio_feats, video_feats, fusion_feats: what the encoder has"
    )


def _call(encoder: Encoder) -> str:
    result = f"# [1, {encoder.width}]"
    if len(encoder.inputs) > 1 or not any(
        isinstance(item, FbankConfig) for item in encoder.inputs.values()
    ):
        return f'encoder("clip.mp4")  {result}'
    return f"encoder(waveform, sample_rate=44100)  {result}, or a path"


def _hf_example(source: Source, folder: str) -> str:
    ((name, recipe),) = source.encoder.inputs.items()
    if isinstance(recipe, FramesConfig) and recipe.frames > 1:
        return (
            "from transformers import AutoImageProcessor, VideoMAEModel\n\n"
            f'model = VideoMAEModel.from_pretrained("{folder}").eval()\n'
            f'pixels = AutoImageProcessor.from_pretrained("{folder}")(pictures, '
            'return_tensors="pt")\nmodel(**pixels).last_hidden_state'
        )
    inner = (
        f'x = AutoFeatureExtractor.from_pretrained("{folder}")(wav, sampling_rate='
        f'{recipe.sample_rate}, return_tensors="pt")\npixels = x.input_values[:, None]'
        if isinstance(recipe, FbankConfig)
        else f'x = AutoImageProcessor.from_pretrained("{folder}")(picture, return_tensors="pt")\n'
        "pixels = x.pixel_values"
    )
    loader = "AutoFeatureExtractor" if isinstance(recipe, FbankConfig) else "AutoImageProcessor"
    return (
        f"from transformers import {loader}, ViTModel\n\n"
        f'model = ViTModel.from_pretrained("{folder}").eval()\n{inner}  # '
        f"{_shapes(source, name)}\nmodel(pixels, output_hidden_states=True)"
    )


def _shapes(source: Source, name: str) -> str:
    return f"[B, {', '.join(str(length) for length in source.shape(name))}]"


def _inputs(source: Source) -> Iterator[str]:
    """Preparation of each input, with numbers."""
    yield f"The encoder was trained on windows of {source.encoder.data.window:g} s.\n"
    for name, recipe in source.encoder.inputs.items():
        shape = _shapes(source, name)
        if isinstance(recipe, FbankConfig):
            yield (
                f"- {name}, {shape}: {recipe.sample_rate} Hz, mean of the channels, minus its "
                f"mean; Kaldi log-mel filterbank of {recipe.bins} bins (25 ms Hanning window, "
                "10 ms shift, htk_compat, no energy, no dither), padded with zeros or cut to "
                f"{recipe.frames} rows; then (x - {recipe.mean:g}) / (2 x {recipe.std:g})."
            )
        else:
            seconds = source.encoder.data.window if recipe.seconds is None else recipe.seconds
            yield (
                f"- {name}, {shape}: {recipe.frames} RGB picture"
                f"{'s' if recipe.frames > 1 else ''} at uniform times of {seconds:g} s, shorter "
                f"side to {recipe.size}, centre crop; then (x / 255 - mean) / std with mean "
                f"{list(recipe.mean)} and std {list(recipe.std)}."
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

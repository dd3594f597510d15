"""How an export is loaded: the lines of its card, which run as they stand."""

from __future__ import annotations

from collections.abc import Iterator

from avssl.data.config import FbankConfig, FramesConfig
from avssl.data.length_config import FRAMES, WaveConfig
from avssl.encoders.encoder import Encoder
from avssl.export.benchmark_folder import entry_name
from avssl.export.hf_models import WITH_NORM, WITHOUT_NORM
from avssl.export.onnx_file import patch_in_time
from avssl.export.source import Source
from avssl.export.timm_folder import DEFAULT_EPS
from avssl.export.vit import plain_vit


def example(source: Source, kind: str, folder: str) -> str:
    """Python that loads an export of a format from `folder` and calls it."""
    encoder = source.encoder
    names = list(encoder.inputs)
    if kind == "safetensors":
        call = _call(encoder)
        return f'import avssl\n\nencoder = avssl.load("{folder}", module="{source.module}")\n{call}'
    if kind == "timm":
        eps = plain_vit(source, target="timm").eps
        norm = (
            "" if eps == DEFAULT_EPS else f", norm_layer=partial(torch.nn.LayerNorm, eps={eps:g})"
        )
        imports = "import timm\n\n"
        if norm:
            imports = "from functools import partial\n\nimport timm\nimport torch\n\n"
        return (
            f'{imports}model = timm.create_model("local-dir:{folder}", pretrained=True{norm})\n'
            "model.eval()\n"
            f"model(x)  # {shape(source, names[0])} -> [B, {encoder.width}], the mean over "
            "patches\nmodel.forward_features(x)  # tokens, CLS first"
        )
    if kind == "hf":
        return _hf_example(source, folder)
    if kind == "onnx":
        feeds = ", ".join(f'"{name}": {name}' for name in names)
        shapes = "; ".join(f"{name} {shape(source, name)}" for name in names)
        towers = source.towers.items()
        steps = {read: patch_in_time(encoder.towers[tower]) for tower, read in towers}
        lengths = "; ".join(_length(source, name, steps[name]) for name in names)
        return (
            "import onnxruntime\n\n"
            f'session = onnxruntime.InferenceSession("{folder}/model.onnx")\n'
            f"*tokens, pooled = session.run(None, {{{feeds}}})  # float32\n"
            f"# {shapes}; any B; {lengths}"
        )
    name = entry_name(source)
    return (
        "import torch\n\n"
        f'upstream = torch.hub.load("{folder}", "{name}", source="local")\n'
        "pair = upstream.preprocess_audio(wav, 16000), upstream.preprocess_video(pictures, 25)\n"
        "upstream([pair])  # audio_feats, video_feats, fusion_feats: what the encoder has"
    )


def notes(source: Source, kind: str, folder: str) -> Iterator[str]:
    """What the example does not show."""
    if kind == "hf":
        vit = plain_vit(source, target="transformers")
        if vit.norm is None and vit.front.shape[1]:
            yield (
                "The encoder has no LayerNorm behind its last block, which ViTModel always has: "
                f"its features are `{WITHOUT_NORM}`, in front of that norm. `last_hidden_state` is "
                "normed with weight 1 and bias 0, and `pooler_output` is its CLS token."
            )
        else:
            yield f"The encoder's features are `{WITH_NORM}`."
    if kind == "avsuperb":
        name = entry_name(source)
        yield (
            f"For AV-SUPERB, copy this folder to `upstream_models/{name}`, add "
            f"`from upstream_models.{name}.hubconf import *` to `hub.py`, and run with `-u {name} "
            "-s fusion_feats` (or audio_feats, video_feats, as far as the encoder has them). Where "
            f"it reads sound, `{name}_speech` is an upstream of S3PRL in the same way. Clips are "
            "cut into windows, and every feature is the mean over a clip; audio_seq_feats and "
            "video_seq_feats keep the steps in time."
        )


def _call(encoder: Encoder) -> str:
    result = f"# [1, {encoder.width}]"
    recipes = list(encoder.inputs.values())
    if len(recipes) == 1 and isinstance(recipes[0], FbankConfig | WaveConfig):
        return f"encoder(waveform, sample_rate=44100)  {result}, or a path"
    return f'encoder("clip.mp4")  {result}'


def _length(source: Source, name: str, step: int) -> str:
    """What an ONNX model takes of an input in time."""
    shape = source.shape(name)
    if FRAMES in shape:
        return f"{name} may have any number of frames {FRAMES} from 2 up, the same for all clips"
    time = shape[1]
    assert isinstance(time, int)
    if 0 < step < time:
        return f"{name} may be shorter in time, in whole patches of {step}"
    return f"{name} has this length"


def _hf_example(source: Source, folder: str) -> str:
    ((name, recipe),) = source.encoder.fixed_inputs.items()
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
        f"{shape(source, name)}\nmodel(pixels, output_hidden_states=True)"
    )


def shape(source: Source, name: str) -> str:
    """An input's shape, such as [B, 1, 1024, 128]."""
    return f"[B, {', '.join(str(length) for length in source.shape(name))}]"

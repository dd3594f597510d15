"""What every registered block must do, each on a small input."""

import inspect
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from avssl.blocks.layers import Linear
from avssl.blocks.projector import Projector
from avssl.registry import registered, signature

TOKENS = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(1))  # [B, N, D]
AUDIO = torch.randn(2, 1, 8, 12, generator=torch.Generator().manual_seed(2))  # [B, 1, T, F]
VIDEO = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(3))  # [B, 3, T, H, W]
VECTORS = torch.randn(4, 16, generator=torch.Generator().manual_seed(4))  # [B, D]
RESTORE = torch.tensor([[2, 0, 1, 4, 3, 5, 6], [6, 5, 4, 3, 2, 1, 0]])  # [B, 7]
MASK = torch.tensor([[0.0, 1, 1, 0, 1, 1], [1, 1, 0, 0, 1, 1]])  # [B, N]
LIPS = torch.randn(2, 1, 6, 12, 12, generator=torch.Generator().manual_seed(5))  # [B, 1, T, S, S]
WAVE = torch.randn(2, 6, 640, generator=torch.Generator().manual_seed(6))  # [B, T, 640]
TEXT = torch.tensor([[1, 2, -1], [3, 1, 2]])  # [B, L - 1]
FRAMES = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])  # [V], the second clip has 4 frames

# block: constructor arguments, forward ports
CASES: dict[str, tuple[dict[str, Any], dict[str, Tensor]]] = {
    "add_vector": ({"width": 16}, {"x": TOKENS}),
    "average": ({}, {"a": torch.tensor(1.0), "b": torch.tensor(2.0)}),
    "cls_token": ({"width": 16}, {"x": TOKENS}),
    "concat_tokens": ({}, {"a": TOKENS, "b": TOKENS[:, :2]}),
    "contrast_health": ({}, {"a": VECTORS, "b": VECTORS.flip(1)}),
    "drop_cls": ({}, {"x": TOKENS}),
    "final_norm": ({"width": 16}, {"x": TOKENS}),
    "info_nce": ({"temperature": 0.1, "two_way": True}, {"a": VECTORS, "b": VECTORS.flip(1)}),
    "layer_norm": ({"width": 16}, {"x": TOKENS}),
    "position_table": (
        {"width": 16, "size": [10, 8], "patch": [4, 4], "stride": [5, 4], "prefix": 2},
        {"x": TOKENS},
    ),
    "linear": ({"width": 16, "out": 4}, {"x": TOKENS}),
    "token_regression": ({}, {"prediction": TOKENS, "target": TOKENS.flip(0), "mask": MASK}),
    "pool_tokens": ({}, {"x": TOKENS}),
    "patch_embed_2d": ({"channels": 1, "width": 16, "patch": [4, 4]}, {"x": AUDIO}),
    "patch_embed_3d": ({"channels": 3, "width": 16, "patch": [2, 4, 4]}, {"x": VIDEO}),
    "patch_head": ({"width": 16, "patch": [2, 4, 4], "channels": 3}, {"x": TOKENS}),
    "patchify_2d": ({"patch": [4, 4]}, {"x": AUDIO}),
    "patchify_3d": ({"patch": [2, 4, 4]}, {"x": VIDEO}),
    "random_mask": ({"ratio": 0.5, "patch": [4, 4]}, {"like": AUDIO}),
    "restore_tokens": ({"width": 16}, {"x": TOKENS, "restore": RESTORE}),
    "sincos_2d": ({"width": 16, "size": [8, 12], "patch": [4, 4]}, {"x": TOKENS}),
    "sincos_3d": ({"width": 16, "size": [4, 12, 4], "patch": [2, 4, 4]}, {"x": TOKENS}),
    "sinusoid_3d": ({"width": 16, "size": [4, 12, 4], "patch": [2, 4, 4]}, {"x": TOKENS}),
    "split_tokens": ({}, {"x": TOKENS, "like": TOKENS[:, :2]}),
    "swap_axes": ({}, {"x": AUDIO}),
    "target_norm": ({"kind": "layer"}, {"x": TOKENS}),
    "transformer": ({"width": 16, "depth": 2, "heads": 2, "drop_path": 0.1}, {"x": TOKENS}),
    "clear_padding": ({}, {"x": TOKENS, "frames": FRAMES}),
    "collapse": ({}, {"x": TOKENS, "frames": FRAMES}),
    "fill_masked": ({"width": 16}, {"x": TOKENS, "mask": MASK}),
    "hide_frames": ({}, {"x": LIPS, "mask": MASK}),
    "lip_stem": ({"channels": 8}, {"x": LIPS, "frames": FRAMES}),
    "frame_norm": ({"width": 16}, {"x": TOKENS, "frames": FRAMES}),
    "mean_frames": ({}, {"x": TOKENS, "frames": FRAMES}),
    "negative_cosine": (
        {"tokens": "masked"},
        {"prediction": TOKENS, "target": TOKENS.flip(0), "mask": MASK, "frames": FRAMES},
    ),
    "relative_transformer": (
        {"width": 16, "depth": 2, "heads": 2, "hidden": 32, "drop_path": 0.1},
        {"x": TOKENS, "frames": FRAMES},
    ),
    "span_mask": ({}, {"like": WAVE, "frames": FRAMES}),
    "wave_stem": ({"channels": 8}, {"x": WAVE, "frames": FRAMES}),
    "tapped_transformer": ({"width": 16, "depth": 3, "heads": 2, "tap": 2}, {"x": TOKENS}),
    "align_features": ({}, {"prediction": TOKENS, "target": TOKENS.flip(0)}),
    "clip_pictures": ({"every": 2}, {"x": VIDEO}),
    "join_pictures": ({}, {"x": TOKENS, "like": VIDEO[:1]}),
    "match_tokens": (
        {"kind": "infonce", "negatives": "batch"},
        {"prediction": TOKENS, "target": TOKENS.flip(0), "mask": MASK},
    ),
    "match_vectors": ({"kind": "infonce"}, {"prediction": VECTORS, "target": VECTORS.flip(0)}),
    "projector": ({"width": 16, "hidden": 8, "out": 4}, {"x": VECTORS}),
    "ctc_loss": ({}, {"logits": TOKENS, "text": TEXT, "frames": FRAMES}),
    "join_streams": (
        {"audio": 16, "video": 16, "width": 8},
        {"audio": TOKENS, "video": TOKENS.flip(1)},
    ),
    "stride_mask": ({"window": 2, "stride": 3}, {"like": WAVE, "frames": FRAMES}),
    "text_accuracy": ({}, {"logits": TOKENS[:, :4], "text": TEXT}),
    "text_cross_entropy": ({"smoothing": 0.1}, {"logits": TOKENS[:, :4], "text": TEXT}),
    "text_decoder": (
        {"memory": 16, "width": 16, "depth": 1, "heads": 2, "hidden": 32, "units": 5},
        {"memory": TOKENS, "text": TEXT, "frames": FRAMES},
    ),
}
NAMES = sorted(CASES)


def build(name: str) -> nn.Module:
    """Build as graphs do: on meta, then NaN everywhere, then ``init_weights``."""
    with torch.device("meta"):
        block = registered()[name](**CASES[name][0])
    block.to_empty(device="cpu")
    for tensor in [*block.parameters(), *block.buffers()]:
        tensor.data.fill_(float("nan") if tensor.is_floating_point() else -7)
    torch.manual_seed(0)
    if hasattr(block, "init_weights"):
        with torch.no_grad():
            block.init_weights()
    return block


def ahead(block: nn.Module) -> tuple[tuple[str, ...], ...]:
    """What graphs give before the inputs: all outputs are read."""
    return (block.outputs,) if signature(type(block)).partial else ()


def call(block: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    result = block(*ahead(block), **inputs)
    return result if isinstance(result, dict) else {block.outputs[0]: result}


def test_every_registered_block_has_a_case() -> None:
    assert set(registered()) == set(CASES)


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_names_every_argument(name: str) -> None:
    block = type(build(name))
    said = inspect.getdoc(block) or ""
    for argument in inspect.signature(block).parameters.values():
        if argument.kind is argument.KEYWORD_ONLY:
            assert re.search(rf"\b{argument.name}\b", said), argument.name


@pytest.mark.parametrize("name", NAMES)
def test_init_weights_fills_everything_and_the_forward_is_finite(name: str) -> None:
    block = build(name)
    assert all(value.isfinite().all() for value in block.state_dict().values())
    outputs = call(block, CASES[name][1])
    assert set(outputs) == set(block.outputs)
    assert block.outputs == signature(type(block)).outputs
    assert all(value.isfinite().all() for value in outputs.values())


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_and_differentiable_input_gets_a_gradient(name: str) -> None:
    block = build(name)
    inputs = {
        port: value.clone().requires_grad_() if value.is_floating_point() else value
        for port, value in CASES[name][1].items()
    }
    outputs = [value for value in call(block, inputs).values() if value.requires_grad]
    if outputs:
        weights = torch.linspace(1, 2, sum(value.numel() for value in outputs))
        (torch.cat([value.flatten() for value in outputs]) * weights).sum().backward()
    for parameter_name, parameter in block.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, parameter_name
    figures = {
        "contrast_health": {"a", "b"},
        "collapse": {"x"},
        "fill_masked": {"mask"},
        "text_accuracy": {"logits"},
    }
    without = {"like", "target"} | figures.get(name, set())
    for port, value in inputs.items():
        if value.requires_grad:
            assert (value.grad is None) == (port in without), port


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_makes_the_same_block(name: str) -> None:
    first, second = build(name), build(name)
    for parameter in second.parameters():
        nn.init.constant_(parameter, 0.3)
    second.load_state_dict(first.state_dict())
    for port, value in call(first, CASES[name][1]).items():
        assert torch.equal(call(second, CASES[name][1])[port], value)


@pytest.mark.parametrize("name", NAMES)
def test_meta_forward_gives_the_shapes_and_types_of_the_real_one(name: str) -> None:
    block = build(name)
    expected = call(block, CASES[name][1])
    block.to("meta")
    found = call(block, {port: value.to("meta") for port, value in CASES[name][1].items()})
    for port, value in expected.items():
        assert (found[port].shape, found[port].dtype) == (value.shape, value.dtype)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "ctc_loss"])
def test_compiles_without_a_break_and_computes_the_same(name: str) -> None:
    """ctc_loss breaks the graph: torch reads its lengths on the host."""
    torch.compiler.reset()
    block = build(name).eval()
    expected = call(block, CASES[name][1])
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    torch.manual_seed(0)
    found = compiled(*ahead(block), **CASES[name][1])
    found = found if isinstance(found, dict) else {block.outputs[0]: found}
    for port, value in expected.items():
        torch.testing.assert_close(found[port], value)


@pytest.mark.parametrize("name", NAMES)
def test_runs_under_bfloat16_autocast(name: str) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = call(build(name), CASES[name][1])
    assert all(value.isfinite().all() for value in outputs.values())


@pytest.mark.parametrize("name", ["width", "hidden", "out"])
def test_heads_without_width_are_refused(name: str) -> None:
    widths = {"width": 16, "hidden": 8, "out": 4, name: 0}
    with pytest.raises(ValueError, match=f"{name} of a projector must be 1 or more, found 0"):
        Projector(**widths)
    del widths["hidden"]
    if name in widths:
        with pytest.raises(ValueError, match=f"{name} of a linear must be 1 or more, found 0"):
            Linear(**widths)

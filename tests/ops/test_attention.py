"""Attention: the backends agree, the choice is explained, and compile and meta go through."""

import importlib
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from avssl.errors import UserError
from avssl.ops.attention import attention, attention_backend, set_attention_backend


@pytest.fixture(autouse=True)
def automatic() -> Iterator[None]:
    yield
    set_attention_backend(None)


def inputs(*, keys: int = 9, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = [(2, 9, 3, 16), (2, keys, 3, 16), (2, keys, 3, 16)]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("keys", [9, 5])
def test_sdpa_equals_plain_forward_and_backward(keys: int) -> None:
    results = {}
    for backend in ("plain", "sdpa"):
        q, k, v = inputs(keys=keys)
        out = attention(q, k, v, backend=backend)
        assert out.shape == (2, 9, 3, 16)
        (out * torch.linspace(0, 1, out.numel()).view_as(out)).sum().backward()
        results[backend] = [out, q.grad, k.grad, v.grad]
    for found, expected in zip(results["sdpa"], results["plain"], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_plain_is_the_formula_head_by_head() -> None:
    q, k, v = inputs()
    out = attention(q, k, v, backend="plain")
    for head in range(3):
        weights = (q[1, :, head] @ k[1, :, head].T / 4).softmax(-1)
        torch.testing.assert_close(out[1, :, head], weights @ v[1, :, head])


def test_bias_is_added_and_minus_infinity_hides() -> None:
    bias = torch.randn(1, 3, 9, 9)
    bias[..., 6:] = -torch.inf  # the last keys
    results = {}
    for backend in ("plain", "sdpa"):
        q, k, v = inputs()
        added = bias.clone().requires_grad_()
        out = attention(q, k, v, bias=added, backend=backend)
        out.square().sum().backward()
        results[backend] = [out, q.grad, k.grad, v.grad, added.grad]
        shorter = attention(q, k[:, :6], v[:, :6], bias=bias[..., :6], backend=backend)
        torch.testing.assert_close(out, shorter)
        assert k.grad is not None and not k.grad[:, 6:].any()
    for found, expected in zip(results["sdpa"], results["plain"], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    weights = (q[1, :, 2] @ k[1, :, 2].T / 4 + bias[0, 2]).softmax(-1)
    torch.testing.assert_close(out[1, :, 2], weights @ v[1, :, 2])


@pytest.mark.parametrize("backend", ["plain", "sdpa"])
def test_dropout_keeps_the_mean_and_changes_single_values(backend: str) -> None:
    q, k, v = inputs()
    torch.manual_seed(0)
    draws = [attention(q, k, v, dropout=0.2, backend=backend) for _ in range(400)]  # type: ignore[arg-type]
    assert not torch.equal(draws[0], draws[1])
    mean = torch.stack(draws).mean(0)
    assert (mean - attention(q, k, v)).abs().max() < 0.25


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_xformers_equals_plain_forward_and_backward(dtype: torch.dtype) -> None:
    if attention_backend().name != "xformers":
        pytest.skip(f"xformers does not run here: {attention_backend().reason}")
    results = {}
    for backend in ("plain", "xformers"):
        q, k, v = (x.detach().to("cuda", dtype).requires_grad_() for x in inputs())
        out = attention(q, k, v, backend=backend)
        out.sum().backward()
        results[backend] = [out, q.grad, k.grad, v.grad]
    for found, expected in zip(results["xformers"], results["plain"], strict=True):
        torch.testing.assert_close(found, expected, rtol=3e-2, atol=3e-2)


def test_choice_has_a_name_and_a_reason() -> None:
    chosen = attention_backend()
    assert chosen.name in ("xformers", "sdpa")
    assert str(chosen) == f"attention: {chosen.name} ({chosen.reason})"
    if not torch.cuda.is_available():
        assert str(chosen) == "attention: sdpa (xformers needs CUDA, which this machine lacks)"


def test_choice_can_be_set_and_taken_back() -> None:
    assert str(set_attention_backend("plain")) == "attention: plain (set by hand)"
    q, k, v = inputs()
    assert torch.equal(attention(q, k, v), attention(q, k, v, backend="plain"))
    assert set_attention_backend(None).name in ("xformers", "sdpa")


def test_impossible_choices_are_user_errors() -> None:
    with pytest.raises(UserError, match=r"'flash' is unknown: choose one of xformers, sdpa, plain"):
        set_attention_backend("flash")
    q, k, v = inputs()
    with pytest.raises(UserError, match=r"half-precision CUDA tensors.*not torch.float32 on cpu"):
        attention(q, k, v, backend="xformers")
    with pytest.raises(UserError, match="'flash' is unknown"):
        attention(q, k, v, backend="flash")  # type: ignore[arg-type]
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match=r"cannot run: xformers needs CUDA.*Use 'sdpa'"):
            set_attention_backend("xformers")


def test_kernels_that_do_not_run_give_way_to_sdpa_with_their_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_operator(*_: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("No operator found for this input\nmore lines")

    module = importlib.import_module("avssl.ops.attention")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(module, "_xformers", no_operator)
    monkeypatch.setattr(module, "_automatic", None)
    chosen = attention_backend()
    assert chosen.name == "sdpa"
    assert chosen.reason.startswith("xformers has no kernel for this GPU and torch (")
    assert "more lines" not in chosen.reason
    with pytest.raises(UserError, match="'xformers' cannot run: xformers has no kernel"):
        set_attention_backend("xformers")


@pytest.mark.parametrize("name", ["sdpa", "plain", None])
def test_compiles_without_a_break_and_follows_a_later_choice(name: str | None) -> None:
    torch.compiler.reset()
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
    q, k, v = inputs()
    expected = attention(q, k, v, backend="plain")
    torch.testing.assert_close(compiled(q, k, v), expected)
    set_attention_backend(name)
    torch.testing.assert_close(compiled(q, k, v), expected)


def test_meta_tensors_go_through() -> None:
    q, k, v = (x.to("meta") for x in inputs(keys=5))
    assert attention(q, k, v).shape == (2, 9, 3, 16)


def test_import_neither_chooses_nor_imports_a_kernel() -> None:
    code = (
        "import sys, avssl.ops.attention as a; "
        "assert a._automatic is None and 'xformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

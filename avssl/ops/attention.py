"""Attention: the one function that attends, and the one choice of the kernel behind it.

Letters: B batch, N query tokens, M key tokens, H heads, Dh width of a head.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from avssl.errors import UserError

BackendName = Literal["xformers", "sdpa", "plain"]
BACKENDS: tuple[BackendName, ...] = ("xformers", "sdpa", "plain")


@dataclass(frozen=True)
class Backend:
    """The kernel that attends, and why it was chosen. ``print(attention_backend())`` shows both."""

    name: BackendName
    reason: str

    def __str__(self) -> str:
        return f"attention: {self.name} ({self.reason})"


_override: BackendName | None = None
_automatic: Backend | None = None


def attention_backend() -> Backend:
    """The backend that ``attention`` uses, chosen at the first call and kept for the process.

    In order: the name given to ``set_attention_backend``; xformers, where CUDA is present and its
    kernels run on this machine (tried once on a small half-precision input, forward and
    backward); SDPA elsewhere. What xformers cannot take falls to SDPA call by call: tensors on CPU
    or meta, single precision, head widths that are no multiple of 8, a bias or dropout, and code
    inside ``torch.compile``, where SDPA is traced without a break and reaches the same kind of
    kernel.
    """
    global _automatic
    if _override is not None:
        return Backend(_override, "set by hand")
    if _automatic is None:
        problem = _xformers_problem()
        if problem is None:
            _automatic = Backend("xformers", "CUDA is present and its kernels run")
        else:
            _automatic = Backend("sdpa", problem)
    return _automatic


def set_attention_backend(name: str | None) -> Backend:
    """Use one backend from now on; ``None`` goes back to the automatic choice.

    Args:
        name: "xformers", "sdpa", "plain" (the slow reference, for tests) or None.

    Raises:
        UserError: the name is unknown, or xformers cannot run on this machine.
    """
    global _override
    if name is None:
        _override = None
        return attention_backend()
    if name not in BACKENDS:
        raise _unknown(name)
    if name == "xformers" and (problem := _xformers_problem()) is not None:
        raise UserError(f"attention backend 'xformers' cannot run: {problem}. Use 'sdpa' instead")
    _override = name
    return attention_backend()


@contextmanager
def use_attention_backend(name: str) -> Iterator[None]:
    """One backend inside a ``with`` block, and what was before behind it. Raises as
    ``set_attention_backend``."""
    before = _override
    set_attention_backend(name)
    try:
        yield
    finally:
        set_attention_backend(before)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Tensor | None = None,
    dropout: float = 0.0,
    backend: BackendName | None = None,
) -> Tensor:
    """Scaled dot-product attention, softmax(q k^T / sqrt(Dh) + bias) v, over tokens of a sample.

    Args:
        q: queries [B, N, H, Dh].
        k: keys [B, M, H, Dh].
        v: values [B, M, H, Dh].
        bias: added to the scaled scores, [B, H, N, M] or what expands to it; -inf hides a key. With
            gradient.
        dropout: share of attention weights set to 0; the caller gives 0 in eval mode.
        backend: the kernel for this call; the one of ``attention_backend`` when None.

    Returns:
        [B, N, H, Dh].

    Raises:
        UserError: ``backend="xformers"`` is asked for what it cannot take.
    """
    fits = _fits_xformers(q) and bias is None and dropout == 0
    if backend is None:
        backend = _override if _override is not None else _automatic_name()
        if backend == "xformers" and not fits:
            backend = "sdpa"
    elif backend == "xformers" and not fits:
        raise UserError(
            f"xformers attends only half-precision CUDA tensors with heads of a multiple of 8, "
            f"outside torch.compile and without bias or dropout, not {q.dtype} on {q.device.type} "
            f"with heads of {q.shape[-1]}: use 'sdpa' there"
        )
    if backend == "xformers":
        return _xformers(q, k, v)
    if backend == "sdpa":
        return _sdpa(q, k, v, bias, dropout)
    if backend == "plain":
        return _plain(q, k, v, bias, dropout)
    raise _unknown(backend)


def _unknown(name: str) -> UserError:
    choices = ", ".join(BACKENDS)
    return UserError(f"attention backend '{name}' is unknown: choose one of {choices}")


@torch.compiler.assume_constant_result
def _automatic_name() -> BackendName:
    """The automatic choice as a name; it stands for the process, so compile may bake it in."""
    return attention_backend().name


def _fits_xformers(q: Tensor) -> bool:
    return (
        q.is_cuda
        and q.dtype in (torch.float16, torch.bfloat16)
        and q.shape[-1] % 8 == 0
        and not torch.compiler.is_compiling()
    )


def _xformers_problem() -> str | None:
    """Why xformers cannot run on this machine, or None. Imports it only where CUDA is present."""
    if not torch.cuda.is_available():
        return "xformers needs CUDA, which this machine lacks"
    try:
        q = torch.zeros(1, 8, 1, 64, device="cuda", dtype=torch.float16, requires_grad=True)
        _xformers(q, q, q).sum().backward()
    except ImportError as error:
        return f"xformers cannot be imported ({error}); install it with `pip install -e '.[cuda]'`"
    except RuntimeError as error:
        return f"xformers has no kernel for this GPU and torch ({str(error).splitlines()[0]})"
    return None


def _xformers(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    fmha = importlib.import_module("xformers.ops")
    return fmha.memory_efficient_attention(q, k, v)  # [B, N, H, Dh]


def _sdpa(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # [B, H, N, Dh]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
    return out.transpose(1, 2)  # [B, N, H, Dh]


def _plain(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
    scores = torch.einsum("bnhd,bmhd->bhnm", q * q.shape[-1] ** -0.5, k)  # [B, H, N, M]
    if bias is not None:
        scores = scores + bias
    weights = F.dropout(scores.softmax(-1), dropout)  # [B, H, N, M]
    return torch.einsum("bhnm,bmhd->bnhd", weights, v)  # [B, N, H, Dh]

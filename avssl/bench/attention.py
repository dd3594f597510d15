"""Attention backends side by side: milliseconds forward, and forward with backward."""

import argparse
import functools
import statistics
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from avssl.arguments import count
from avssl.bench.timing import alternate
from avssl.errors import UserError
from avssl.ops.attention import (
    BACKENDS,
    BackendName,
    attention,
    attention_backend,
    set_attention_backend,
)


def main(argv: Sequence[str]) -> int:
    """Print a table: tokens by backend; what cannot run here is named with its reason."""
    parser = argparse.ArgumentParser(prog="bench.py attention", description=__doc__)
    parser.add_argument("--tokens", type=count, nargs="+", default=[103, 260, 513, 785])
    parser.add_argument("--batch", type=count, default=4)
    parser.add_argument("--heads", type=count, default=12)
    parser.add_argument("--width", type=count, default=64, help="of a head")
    parser.add_argument("--rounds", type=count, default=7)
    options = parser.parse_args(argv)
    cuda = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if cuda else ("cpu", torch.float32)
    print(
        f"{attention_backend()} - batch {options.batch}, {options.heads} heads of {options.width}"
    )
    print(f"on {device} in {str(dtype).removeprefix('torch.')}, {torch.get_num_threads()} threads")
    usable: list[BackendName] = []
    for name in BACKENDS:
        try:
            set_attention_backend(name)
            usable.append(name)
        except UserError as error:
            print(f"skipped {name}: {error}")
    set_attention_backend(None)
    print("tokens  " + "".join(f"{name + ' fwd':>14}{'fwd+bwd':>10}" for name in usable) + "   ms")
    for tokens in options.tokens:
        shape = (options.batch, tokens, options.heads, options.width)
        q, k, v = (torch.randn(shape, device=device, dtype=dtype) for _ in range(3))
        for x in (q, k, v):
            x.requires_grad_()
        calls: dict[str, Callable[[], None]] = {}
        for name in usable:
            calls[f"{name} fwd"] = functools.partial(_forward, q, k, v, name)
            calls[f"{name} fwd+bwd"] = functools.partial(_backward, q, k, v, name)
        times = alternate(calls, rounds=options.rounds)
        cells = [1000 * statistics.median(times[name]) for name in calls]
        print(
            f"{tokens:6}  "
            + "".join(f"{ms:{10 if i % 2 else 14}.2f}" for i, ms in enumerate(cells))
        )
    return 0


def _forward(q: Tensor, k: Tensor, v: Tensor, backend: BackendName) -> None:
    with torch.no_grad():
        attention(q, k, v, backend=backend)


def _backward(q: Tensor, k: Tensor, v: Tensor, backend: BackendName) -> None:
    attention(q, k, v, backend=backend).sum().backward()

"""How much of a GPU a step uses: floating-point operations of a graph against the device's peak."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from avssl.graph.calls import plan
from avssl.graph.check import check_spec
from avssl.graph.source import Problems

if TYPE_CHECKING:
    from collections.abc import Collection

    from avssl.graph.spec import GraphSpec

# dense bf16 operations per second, from the makers' data sheets (SXM where there are two)
PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A40": 150e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}


def flops_per_clip(spec: GraphSpec, known: Collection[str] = ()) -> float:
    """Operations of one clip in a training step: 3 times the forward pass, once for teachers.

    known: values (``node.port``) that are not computed, for a cache has them.
    """
    report = check_spec(spec, Problems(), flops=True)
    if report.graph is None or report.trace is None or report.trace.flops is None:
        return 0.0
    counted = report.trace.flops
    calls = plan(spec, list(report.graph.losses), known)
    return sum(counted.get(c.name, 0) * (1.0 if c.no_grad else 3.0) for c in calls)


def peak_flops(device: torch.device) -> float | None:
    """bf16 operations per second of a CUDA device, None where it is not in the table."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS.items() if part in name), None)

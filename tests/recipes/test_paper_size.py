"""The paper-size configuration: checked fast and small, and really runs."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from avssl.graph import Graph

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "paper" / "mavil_audioset.yaml"
CHECK = """
import json, resource, sys, time
start = time.perf_counter()
from avssl.graph.command import main
main(["check", sys.argv[1]])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps({"seconds": time.perf_counter() - start, "peak_gib": peak}))
"""


def test_check_stays_small() -> None:
    """Less than 2 GB; its time (under 10 s on a free machine) is printed, not held."""
    done = subprocess.run(
        [sys.executable, "-c", CHECK, str(CONFIG)], capture_output=True, text=True, check=True
    )
    figures = json.loads(done.stdout.splitlines()[-1])
    print(figures)
    assert figures["peak_gib"] < 2


@pytest.mark.long
def test_one_real_step_of_stage_1() -> None:
    """Forward and backward of batch 2 on the CPU: finite, and at random weights as expected."""
    graph = Graph.from_file(ROOT / "configs" / "graphs" / "mavil_stage1.yaml").train()
    torch.manual_seed(0)
    batch = {"audio": torch.randn(2, 1, 1024, 128), "video": torch.randn(2, 3, 8, 224, 224)}
    losses = graph(batch)
    weights = {name: loss.weight(0.0) for name, loss in graph.losses.items()}
    total = sum(weights[name] * value for name, value in losses.items())
    assert isinstance(total, torch.Tensor)
    total.backward()
    assert losses["inter"].item() == pytest.approx(math.log(2), abs=0.3)
    for key, parameter in graph.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key

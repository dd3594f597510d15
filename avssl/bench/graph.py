"""A training step of the configured MAViL stage 1 against the same model written by hand.

Both start from the same weights, draws and batch. Checked: the losses are equal to the last bit,
the whole graph compiles as one piece, and a step takes the same time within 3 percent (median over
alternating rounds).
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avssl.arguments import count
from avssl.bench.mavil_by_hand import MavilByHand
from avssl.bench.timing import CLOCK_HELP, CLOCKS, alternate, median_ratio
from avssl.graph.graph import Graph
from avssl.train.experiment import load_experiment

TOLERANCE = 0.03


def make_pair(graph_file: Path, args: dict[str, Any]) -> tuple[Graph, MavilByHand]:
    """The graph, and the hand-written model with its weights."""
    graph = Graph.from_file(graph_file, args=args)
    by_hand = MavilByHand(graph.spec.arguments)
    by_hand.load_graph(graph)
    return graph.train(), by_hand.train()


def random_batch(graph: Graph, clips: int) -> dict[str, Tensor]:
    """A batch of noise in the shapes that the graph takes."""
    torch.manual_seed(0)
    return {
        name: torch.randn(clips, *(int(size) for size in item.shape[1:]))
        for name, item in graph.inputs.items()
    }


class Step:
    """One training step: losses, weighted sum, backward, AdamW."""

    def __init__(self, model: nn.Module, graph: Graph, batch: dict[str, Tensor]) -> None:
        self.model, self.batch = model, batch
        self.weights = {name: loss.weight(0.0) for name, loss in graph.losses.items()}
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        self.number = 0

    def __call__(self) -> dict[str, Tensor]:
        torch.manual_seed(self.number)
        self.number += 1
        losses = self.model(self.batch)
        total = torch.stack([losses[name] * weight for name, weight in self.weights.items()]).sum()
        total.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {name: losses[name].detach() for name in self.weights}


def main(argv: Sequence[str]) -> int:
    """Print both times, their ratio and what held; exit code 1 where something did not."""
    parser = argparse.ArgumentParser(prog="bench.py graph", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/mavil.yaml"))
    parser.add_argument("--batch", type=count, default=16)
    parser.add_argument("--rounds", type=count, default=40)
    parser.add_argument(
        "--clock",
        choices=list(CLOCKS),
        default="wall",
        help=CLOCK_HELP,
    )
    parser.add_argument("--no-compile", action="store_true", help="leave the compile check out")
    options = parser.parse_args(argv)
    stage = load_experiment(options.config).instances[0]
    graph, by_hand = make_pair(stage.spec.files[0], stage.args)
    batch = random_batch(graph, options.batch)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    graph.to(device)
    by_hand.to(device)
    batch = {name: value.to(device) for name, value in batch.items()}

    steps = {"graph": Step(graph, graph, batch), "by hand": Step(by_hand, graph, batch)}
    first = {name: step() for name, step in steps.items()}
    equal = all(torch.equal(first["graph"][n], first["by hand"][n]) for n in first["graph"])
    print(f"losses: {'equal to the last bit' if equal else 'DIFFERENT'}")
    for name, value in first["graph"].items():
        print(f"  {name:10} {value.item():.7f}  {first['by hand'][name].item():.7f}")

    times = alternate(steps, rounds=options.rounds, clock=CLOCKS[options.clock])
    ratio = median_ratio(times, "graph", "by hand")
    within = abs(ratio - 1) <= TOLERANCE
    print(
        f"step of {options.batch} clips on {device}, median {options.clock} time of "
        f"{options.rounds} alternating rounds"
    )
    for name, values in times.items():
        print(f"  {name:10} {1000 * statistics.median(values):9.2f} ms")
    print(f"  ratio      {ratio:9.4f}    {'within' if within else 'NOT within'} {TOLERANCE:.0%}")

    whole = options.no_compile or _compiles(graph, batch)
    return 0 if equal and within and whole else 1


def _compiles(graph: Graph, batch: dict[str, Tensor]) -> bool:
    """Compile the graph without any break allowed; its losses must agree with the eager ones."""
    torch.manual_seed(0)
    expected = graph(batch)
    torch.manual_seed(0)
    # with the eager generator, for else the masks would be others
    compiled = torch.compile(graph, fullgraph=True, options={"fallback_random": True})
    losses = compiled(batch)
    torch.stack(list(losses.values())).sum().backward()
    far = max((losses[name] - expected[name]).abs().item() for name in expected)
    print(f"torch.compile(fullgraph=True): no break, losses differ by at most {far:.1e}")
    return far < 1e-3

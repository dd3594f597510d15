"""A teacher that runs up to its aligned block against all of it (DMAE).

The frozen teacher of a stage, at random weights, on a batch of noise as it is called in a step:
what the losses read, and with every block. Checked: the median over alternating rounds of the
ratio of times is at most the share of blocks that run and 5 percent.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from avssl.arguments import count
from avssl.bench.graph import random_batch
from avssl.bench.timing import CLOCK_HELP, CLOCKS, alternate, median_ratio
from avssl.blocks.transformer import TappedTransformer
from avssl.errors import UserError
from avssl.graph.graph import Graph
from avssl.train.experiment import load_experiment

SPARE = 1.05


def tapped_teacher(graph: Graph) -> tuple[str, TappedTransformer]:
    """The node that asks a frozen teacher for what it has behind one of its blocks, and the blocks.

    Raises:
        UserError: there is none.
    """
    for call in graph.calls:
        if call.frozen and [port for port, _ in call.outputs] == ["tap"]:
            for module in graph.get_submodule(call.module).modules():
                if isinstance(module, TappedTransformer):
                    return call.name, module
    raise UserError("no frozen teacher is asked for its tap alone: give another --config")


def main(argv: Sequence[str]) -> int:
    """Print both times and their ratio; exit code 1 where the part costs more than its share."""
    parser = argparse.ArgumentParser(prog="bench.py teachers", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/dmae.yaml"))
    parser.add_argument("--stage", default="student")
    parser.add_argument("--batch", type=count, default=16)
    parser.add_argument("--rounds", type=count, default=40)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help=CLOCK_HELP)
    options = parser.parse_args(argv)
    experiment = load_experiment(options.config)
    instance = next((i for i in experiment.instances if i.name == options.stage), None)
    if instance is None:
        raise UserError(f"{options.config} has no stage '{options.stage}': give --stage")
    specs = {item.name: item.spec for item in experiment.instances}
    references = experiment.references(
        instance, lambda name: Graph.from_spec(specs[name]).state_dict()
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    graph = Graph.from_spec(instance.spec, references=references).to(device).train()
    name, blocks = tapped_teacher(graph)
    batch = {key: item.to(device) for key, item in random_batch(graph, options.batch).items()}
    node = graph.spec.calls[name]
    given = {
        source.key: value
        for source in node.inputs.values()
        if not source.key.startswith("batch.")
        for value in [graph(batch, [source.key])[source.key]]
    }  # such as the mask: the teacher alone is timed
    share = blocks.tap / len(blocks.blocks)

    def run(port: str) -> Callable[[], object]:
        key = f"{name}.{port}"
        return lambda: graph(batch, [key], given)

    times = alternate(
        {"up to its block": run("tap"), "all of it": run("tokens")},
        rounds=options.rounds,
        clock=CLOCKS[options.clock],
    )
    ratio = median_ratio(times, "up to its block", "all of it")
    kept = ratio <= share * SPARE
    print(
        f"teacher '{node.call}', {blocks.tap} of {len(blocks.blocks)} blocks, {options.batch} "
        f"pictures on {device}, median {options.clock} time of {options.rounds} alternating rounds"
    )
    for side, values in times.items():
        print(f"  {side:16} {1000 * statistics.median(values):9.2f} ms")
    print(f"  ratio {ratio:.3f}, {'within' if kept else 'ABOVE'} {share:.3f} and 5 percent")
    return 0 if kept else 1

"""The configured MAViL against the same model written by hand, and compiled in one piece."""

from pathlib import Path

import torch

from avssl.bench.graph import make_pair, random_batch
from avssl.bench.mavil_by_hand import RENAMED
from avssl.graph.graph import Graph
from avssl.graph.spec import Reference

GRAPHS = Path(__file__).parents[2] / "configs" / "graphs"
SMALL = {
    "width": 32,
    "depth": 2,
    "heads": 4,
    "fusion_depth": 1,
    "decoder_width": 16,
    "decoder_depth": 1,
    "decoder_heads": 2,
    "mel_frames": 128,
    "mel_bins": 32,
    "frames": 4,
    "image": 48,
}


def test_losses_are_equal_to_the_last_bit_and_gradients_agree() -> None:
    graph, by_hand = make_pair(GRAPHS / "mavil_stage1.yaml", SMALL)
    batch = random_batch(graph, 4)
    losses = {}
    for model in (graph, by_hand):
        torch.manual_seed(3)
        losses[model] = model(batch)
        sum(losses[model].values()).backward()
    for name, value in losses[graph].items():
        assert torch.equal(value, losses[by_hand][name]), name
    theirs = dict(by_hand.named_parameters())
    for name, parameter in graph.named_parameters():
        for old, new in RENAMED.items():
            name = name.replace(old, new)
        torch.testing.assert_close(parameter.grad, theirs.pop(name).grad, rtol=1e-4, atol=1e-6)
    assert theirs == {}


def test_both_stages_compile_without_a_break() -> None:
    first = Graph.from_file(GRAPHS / "mavil_stage1.yaml", args=SMALL)
    second = Graph.from_file(
        GRAPHS / "mavil_stage2.yaml",
        args=SMALL,
        references={"previous": Reference(first.spec, first.state_dict)},
    )
    for graph in (first, second):
        torch.compiler.reset()
        batch = random_batch(graph, 4)
        torch.manual_seed(3)
        expected = graph(batch)
        compiled = torch.compile(graph, fullgraph=True, backend="aot_eager")
        torch.manual_seed(3)
        losses = compiled(batch)
        sum(losses.values()).backward()
        for name, value in expected.items():
            torch.testing.assert_close(losses[name], value)
        trained = {name: p for name, p in graph.named_parameters() if p.requires_grad}
        assert all(p.grad is not None for p in trained.values())

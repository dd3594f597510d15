"""DMAE (arXiv 2208.12256) and MAE (arXiv 2111.06377), which is in it: reference behaviours."""

import math

import pytest
import torch
from torch import Tensor

from avssl.graph.dryrun import dry_run
from avssl.graph.graph import Graph
from avssl.graph.source import Problems
from avssl.losses.features import AlignFeatures
from tests.recipes.students import DECODER, count, dmae, image, mae, paper_size, tiny


@pytest.mark.parametrize(
    ("size", "encoder", "decoder", "total"),
    [
        ((12, 192, 3), 5.49, 25.71, 31.20),
        ((12, 384, 6), 21.59, 25.81, 47.40),
        ((12, 768, 12), 85.65, 26.01, 111.66),
        ((24, 1024, 16), 303.10, 26.14, 329.24),
    ],
)
def test_sizes_are_those_of_the_paper(
    size: tuple[int, int, int], encoder: float, decoder: float, total: float
) -> None:
    depth, width, heads = size
    graph = paper_size("mae", depth=depth, width=width, heads=heads)
    light = count(graph.get_submodule("decoder"), graph.get_submodule("head"))
    assert count(graph.get_submodule("image")) / 1e6 == pytest.approx(encoder, abs=0.006)
    assert light / 1e6 == pytest.approx(decoder, abs=0.006)
    assert count(graph) / 1e6 == pytest.approx(total, abs=0.006)
    table = graph.get_submodule("image.positions").get_buffer("table").numel()
    stored = {5.49: 5.52, 21.59: 21.67, 85.65: 85.80, 303.10: 303.30}[encoder]
    fixed = (count(graph.get_submodule("image")) + table) / 1e6
    assert fixed == pytest.approx(stored, abs=0.006)


@pytest.mark.parametrize(
    ("width", "teacher", "millions"), [(192, 768, 0.15), (384, 768, 0.30), (768, 1024, 0.79)]
)
def test_the_projection_has_the_size_of_the_paper(
    width: int, teacher: int, millions: float
) -> None:
    reference = paper_size("mae", width=teacher, heads=16, depth=2, tap=1)
    sizes = {"width": width, "heads": 3, "teacher_width": teacher}
    graph = paper_size("dmae", {"previous": reference}, **sizes)
    assert count(graph.get_submodule("projection")) / 1e6 == pytest.approx(millions, abs=0.006)


@pytest.mark.parametrize(("ratio", "seen"), [(0.75, 49), (0.9, 19), (0.95, 9), (0.98, 3)])
def test_as_many_patches_are_seen_as_in_the_paper(ratio: float, seen: int) -> None:
    mask = paper_size("mae", mask=ratio, depth=1).get_submodule("mask")
    assert mask(torch.empty(2, 3, 1, 224, 224))["keep"].shape == (2, seen)


def test_teacher_and_student_see_the_same_patches() -> None:
    graph, x = dmae().eval(), image()
    found = graph({"image": x}, ["m.keep", "t.tap", "i.tap"])
    keep = found["m.keep"]
    assert found["t.tap"].shape == (4, 1 + 4, 48) and found["i.tap"].shape == (4, 1 + 4, 32)
    for name, source in (("teacher", "t.tap"), ("image", "i.tap")):
        tower = graph.get_submodule(name)
        again = tower(("tap",), x=x, keep=keep)["tap"]
        torch.testing.assert_close(again, found[source])
        other = tower(("tap",), x=x, keep=keep.roll(1, dims=0))["tap"]
        assert not torch.allclose(other, found[source])


def test_alignment_trains_the_student_up_to_its_block_and_pixels_all_of_it() -> None:
    graph = dmae()
    torch.manual_seed(0)
    losses = graph({"image": image()})
    for name, reached in (("alignment", 2), ("pixels", 3)):
        graph.zero_grad(set_to_none=True)
        losses[name].backward(retain_graph=True)
        blocks = graph.get_submodule("image.encoder.blocks")
        trained = [block.mlp.fc1.weight.grad is not None for block in blocks]
        assert trained == [i < reached for i in range(3)]
    assert all(p.grad is None for p in graph.get_submodule("teacher").parameters())


def test_hidden_patches_do_not_count_in_the_alignment_nor_seen_ones_in_the_pixels() -> None:
    graph, x = dmae().eval(), image()
    torch.manual_seed(0)
    before = graph({"image": x}, ["alignment", "m.mask", "h", "values"])
    pixels = before["m.mask"].view(4, 1, 1, 4, 4)
    pixels = pixels.repeat_interleave(8, dim=3).repeat_interleave(8, dim=4)
    other = x + pixels * torch.randn(x.shape)
    torch.manual_seed(0)
    assert torch.equal(graph({"image": other}, ["alignment"])["alignment"], before["alignment"])
    loss, moved = graph.get_submodule("regression"), before["h"].clone()
    moved[before["m.mask"] == 0] += 5
    mask, values = before["m.mask"], before["values"]
    assert torch.equal(loss(moved, values, mask), loss(before["h"], values, mask))


def test_the_alignment_does_not_see_the_scale_of_the_teacher() -> None:
    x, y = torch.randn(2, 5, 16), torch.randn(2, 5, 16)
    align = AlignFeatures()
    torch.testing.assert_close(align(x, y), align(x, 7 * y))
    assert not torch.allclose(
        AlignFeatures(norm="none")(x, y), AlignFeatures(norm="none")(x, 7 * y)
    )
    x, y = torch.randn(2, 64, 50, 1024).unbind(0)
    expected = 2 / math.sqrt(math.pi * 1024)  # independent directions: about 0.035
    assert align(x, y).item() == pytest.approx(expected, rel=0.02)


def calls(graph: Graph, batch: dict[str, Tensor]) -> list[int]:
    """How often each block of the teacher runs in a step."""
    ran = [0] * len(graph.get_submodule("teacher.encoder.blocks"))
    hooks = []
    for number, block in enumerate(graph.get_submodule("teacher.encoder.blocks")):

        def seen(*_: object, number: int = number) -> None:
            ran[number] += 1

        hooks.append(block.register_forward_hook(seen))
    graph(batch)
    for hook in hooks:
        hook.remove()
    return ran


def test_the_teacher_runs_up_to_the_aligned_block_alone() -> None:
    assert calls(dmae(), {"image": image()}) == [1, 1, 1, 0]


def test_a_teacher_cut_off_behind_its_block_gives_the_same_losses() -> None:
    """As one of 3 blocks in place of 4; and those of the whole teacher, whose blocks all run."""
    whole = dmae().eval()
    short = mae(width=48, depth=3, heads=3)
    cut = tiny("dmae", {"previous": short}, **DECODER, tap=2, teacher_width=48).eval()
    state = whole.state_dict()
    cut.load_state_dict({name: state[name] for name in cut.state_dict()})
    losses = []
    for graph in (whole, cut):
        torch.manual_seed(0)
        losses.append(graph({"image": image()}))
    assert torch.equal(losses[0]["alignment"], losses[1]["alignment"])
    assert torch.equal(losses[0]["pixels"], losses[1]["pixels"])
    torch.manual_seed(0)
    found = whole({"image": image()}, ["t.tokens", "t.tap", "p", "alignment"])
    assert found["t.tokens"].shape == found["t.tap"].shape
    again = whole.get_submodule("align")(found["p"], found["t.tap"])
    assert torch.equal(again, losses[0]["alignment"])


def test_no_gradient_passes_the_teacher_to_its_picture() -> None:
    """The picture's gradient is that towards a target which is a mere number."""
    graph, x = dmae().eval(), image().requires_grad_()
    found = graph({"image": x}, ["alignment", "t.tap", "p"])
    assert not found["t.tap"].requires_grad
    (whole,) = torch.autograd.grad(found["alignment"], x, retain_graph=True)
    target = found["t.tap"].clone().requires_grad_()
    alone = graph.get_submodule("align")(found["p"], target)
    (by_student,) = torch.autograd.grad(alone, x, retain_graph=True)
    assert whole.any() and torch.equal(whole, by_student)
    (none,) = torch.autograd.grad(alone, target, allow_unused=True)
    assert none is None


def test_a_partial_teacher_costs_its_share_of_a_whole_one() -> None:
    """In operations, with the teacher of the paper: 18 of 24 blocks."""
    flops = {}
    for tap in (18, 24):
        teacher = paper_size("mae", width=1024, depth=24, heads=16, tap=tap)
        graph = paper_size("dmae", {"previous": teacher}, depth=1, tap=1)
        found = dry_run(graph, Problems(), flops=True).flops
        assert found is not None
        flops[tap] = found["t"]
    assert flops[18] / flops[24] <= 18 / 24 * 1.05


def test_a_mask_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="keeps none of 16 patches"):
        mae(mask=0.98)({"image": image()})

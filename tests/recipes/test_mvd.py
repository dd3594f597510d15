"""MVD (arXiv 2212.04500): the reference behaviours, and those of VideoMAE, its video teacher."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from avssl.errors import ConfigError
from avssl.graph.graph import Graph
from avssl.losses.reconstruction import TokenRegression
from avssl.train.experiment import load_experiment
from tests.recipes.students import CONFIGS, clip, count, mvd, paper_size, videomae

SMALL = {"width": 384, "depth": 12, "heads": 6}
SMALL_DECODER = {"decoder_width": 384, "decoder_depth": 2, "decoder_heads": 6}
LARGE = {"width": 1024, "depth": 24, "heads": 16}
LARGE_DECODER = {"decoder_width": 512, "decoder_depth": 4, "decoder_heads": 8}
HUGE = {"width": 1280, "depth": 32, "heads": 16}
HUGE_DECODER = {"decoder_width": 640, "decoder_depth": 8, "decoder_heads": 8}


@pytest.mark.parametrize(
    ("student", "decoder", "features", "encoder", "branch", "total"),
    [
        (SMALL, SMALL_DECODER, 768, 21.88, 3.99, 29.87),
        (SMALL, SMALL_DECODER, 1024, 21.88, 4.09, 30.06),
        ({}, {}, 768, 86.23, 15.36, 116.94),
        ({}, {}, 1024, 86.23, 15.56, 117.34),
        (LARGE, LARGE_DECODER, 1024, 303.86, 13.66, 331.18),
        (HUGE, HUGE_DECODER, 1280, 631.61, 41.03, 713.66),
    ],
)
def test_sizes_are_those_of_the_paper(
    student: dict[str, int],
    decoder: dict[str, int],
    features: int,
    encoder: float,
    branch: float,
    total: float,
) -> None:
    """Without the biases of keys, which the authors' blocks lack and which change nothing."""
    wide = {"width": features, "depth": 1, "heads": 16}
    teachers = {
        "image_teacher": paper_size("mae", **wide),
        "video_teacher": paper_size("videomae", **wide),
    }
    sizes = {"image_features": features, "video_features": features}
    graph = paper_size("mvd", teachers, **student, **decoder, **sizes)
    arguments = graph.spec.arguments
    tower = count(graph.get_submodule("video")) - arguments["depth"] * arguments["width"]
    keys = arguments["decoder_depth"] * arguments["decoder_width"]
    branches = [
        count(graph.get_submodule(f"{name}_decoder"), graph.get_submodule(f"{name}_head")) - keys
        for name in ("image", "video")
    ]
    assert tower / 1e6 == pytest.approx(encoder, abs=0.006)
    assert branches[0] == branches[1]
    assert branches[0] / 1e6 == pytest.approx(branch, abs=0.006)
    assert (tower + sum(branches)) / 1e6 == pytest.approx(total, abs=0.011)


def of_base_size(**args: float) -> Graph:
    """MVD's graph on the meta device, with teachers of one block."""
    teachers = {name: paper_size(name, depth=1) for name in ("mae", "videomae")}
    teachers = {"image_teacher": teachers["mae"], "video_teacher": teachers["videomae"]}
    return paper_size("mvd", teachers, **args)


@pytest.mark.parametrize("name", ["mvd", "videomae"])
def test_tubes_hide_the_same_places_in_all_frames(name: str) -> None:
    graph = of_base_size() if name == "mvd" else paper_size("videomae")
    found = graph.get_submodule("mask")(torch.empty(3, 3, 16, 224, 224))
    assert found["keep"].shape == (3, 160) and found["mask"].sum(1).tolist() == [1408] * 3
    places = found["mask"].unflatten(1, (8, 196))
    assert (places == places[:, :1]).all() and len(places[:, 0].unique(dim=0)) == 3
    seen = (found["mask"] == 0).nonzero()[:, 1].view(3, 160)
    assert torch.equal(found["keep"].sort(1).values, seen)
    # each place of the clip finds its own token among those that are seen, or one behind them
    own = found["keep"].gather(1, found["restore"].clamp(max=159))
    assert torch.equal(own[found["mask"] == 0].view(3, 160), seen)
    assert (found["restore"][found["mask"] == 1] >= 160).all()
    assert torch.equal(found["restore"].sort(1).values, torch.arange(1568).expand(3, -1))


def test_predictions_and_targets_have_a_place_for_each_tubelet() -> None:
    graph = mvd().eval()
    batch = {"video": clip()}
    found = graph(batch, ["ih", "vh", "it", "vt", "m.mask"])
    assert {tuple(found[name].shape) for name in ("ih", "vh", "it", "vt")} == {(2, 32, 32)}
    assert found["m.mask"].sum(1).tolist() == [22, 22]  # 11 of 16 places in two pairs of frames


@pytest.mark.parametrize("branch", ["image", "video"])
def test_predictions_come_in_the_order_in_which_the_mask_selects(branch: str) -> None:
    """What a boolean mask takes of them is made, row by row, of the mask token and the positions of
    the hidden places in ascending order, where the decoder's blocks pass on what they are given."""
    graph, x = mvd().eval(), clip()
    decoder, head = (graph.get_submodule(f"{branch}_{part}") for part in ("decoder", "head"))
    for block in decoder.get_submodule("decoder.blocks").children():
        for part in ("attn.proj", "mlp.fc2"):
            for parameter in block.get_submodule(part).parameters():
                torch.nn.init.zeros_(parameter)
    token = torch.nn.init.normal_(decoder.get_submodule("fill").get_parameter("mask_token"))
    table = decoder.get_submodule("positions").get_buffer("table")[0]  # [N, D]
    names = [f"{branch[0]}h", "m.mask", "m.keep", "v.tokens"]
    predictions, mask, keep, tokens = graph({"video": x}, names).values()

    def made(x: Tensor) -> Tensor:
        return head(decoder.get_submodule("norm")(x))

    for row in range(2):
        hidden = mask[row].nonzero().flatten()
        expected = made(token[0, 0] + table[hidden])
        torch.testing.assert_close(predictions[row][mask[row].bool()], expected)
        seen = decoder.get_submodule("embed")(tokens[row]) + table[keep[row]]
        torch.testing.assert_close(predictions[row][keep[row]], made(seen))


def test_the_position_of_a_hidden_place_is_that_of_its_own_row_alone() -> None:
    graph, x = mvd().eval(), clip(1)
    given: list[Tensor] = []
    decoder = graph.get_submodule("video_decoder")
    blocks = decoder.get_submodule("decoder")
    blocks.register_forward_pre_hook(lambda _, inputs, named: given.append(named["x"]),
                                     with_kwargs=True)  # fmt: skip
    table = decoder.get_submodule("positions").get_buffer("table")
    torch.manual_seed(0)
    before = graph({"video": x}, ["m.mask", "vh"])
    hidden = before["m.mask"][0].nonzero().flatten()[3]
    table[0, hidden] += 1
    torch.manual_seed(0)
    graph({"video": x}, ["vh"])
    moved = (given[0] != given[1])[0].any(1)
    assert moved.nonzero().flatten().tolist() == [hidden]


def test_the_image_teacher_sees_the_first_picture_of_a_tubelet_and_the_video_teacher_all() -> None:
    graph, x = mvd().eval(), clip()
    before = graph({"video": x}, ["it", "vt"])
    for frame, changed in ((0, range(16)), (1, ()), (2, range(16, 32)), (3, ())):
        other = x.clone()
        other[:, :, frame] += torch.randn(2, 3, 32, 32)
        after = graph({"video": other}, ["it", "vt"])
        moved = (after["it"] - before["it"]).abs().amax((0, 2)) > 1e-5
        assert moved.nonzero().flatten().tolist() == list(changed)
        assert ((after["vt"] - before["vt"]).abs().amax((0, 2)) > 1e-6).all()


def test_targets_stand_before_the_teachers_last_norm() -> None:
    graph, batch = mvd().eval(), {"video": clip()}
    torch.manual_seed(0)
    before = graph(batch)
    for name in ("teacher_image", "teacher_video"):
        norm = graph.get_submodule(f"{name}.norm.norm")
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    torch.manual_seed(0)
    after = graph(batch)
    assert all(torch.equal(before[name], after[name]) for name in ("image", "video"))


def test_a_student_does_not_see_hidden_tubelets() -> None:
    graph, x = mvd().eval(), clip()
    torch.manual_seed(0)
    before = graph({"video": x}, ["ih", "vh", "m.mask"])
    pixels = before["m.mask"].view(2, 1, 2, 4, 4)
    for axis, size in ((2, 2), (3, 8), (4, 8)):
        pixels = pixels.repeat_interleave(size, dim=axis)
    other = x + pixels * torch.randn(x.shape)
    torch.manual_seed(0)
    after = graph({"video": other}, ["ih", "vh"])
    for name in ("ih", "vh"):
        assert torch.equal(before[name], after[name])


def test_weight_0_leaves_a_decoder_without_gradient_and_teachers_never_have_one() -> None:
    graph = mvd(video_weight=0.0)
    losses = graph({"video": clip()})
    assert set(losses) == {"image"}
    losses["image"].backward()
    for name, parameter in graph.named_parameters():
        trained = name.startswith(("video.", "image_decoder.", "image_head."))
        assert (parameter.grad is not None) == trained, name


def test_smooth_l1_is_quadratic_below_1_and_linear_above() -> None:
    loss = TokenRegression(error="smooth_l1")
    zero, mask = torch.zeros(1, 2, 1), torch.tensor([[0.0, 1.0]])
    for x in (0.2, 0.9, 1.5, 7.0):
        found = loss(torch.tensor([[[9.0], [x]]]), zero, mask)
        assert found.item() == pytest.approx(0.5 * x * x if x < 1 else x - 0.5)
    x, y = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    hidden = torch.tensor([[1.0, 0, 1, 1, 0], [0, 1, 1, 0, 1]])
    expected = F.smooth_l1_loss(x[hidden.bool()], y[hidden.bool()])
    torch.testing.assert_close(loss(x, y, hidden), expected)


def test_videomae_predicts_cubes_whose_channels_are_normalised() -> None:
    graph = videomae()
    target = graph({"video": clip() * 3 + 2}, ["t"])["t"].unflatten(2, (-1, 3))
    torch.testing.assert_close(target.mean(2), torch.zeros(2, 32, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(target.std(2), torch.ones(2, 32, 3), atol=1e-4, rtol=0)


def test_a_teacher_of_another_picture_size_is_refused_before_training() -> None:
    overrides = ["stages.image_teacher.args.image=32", "data.inputs.image.size=32"]
    with pytest.raises(ConfigError, match=r"'teacher_image\.x' takes \[B, 3, 1, 32, 32\]"):
        load_experiment(CONFIGS / "mvd.yaml", overrides)

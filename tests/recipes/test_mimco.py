"""MimCo (arXiv 2209.03063) and its teacher MoCo v3 (arXiv 2104.02057): reference behaviours."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from avssl.losses.contrast import InfoNce
from avssl.losses.features import MatchTokens, MatchVectors
from avssl.train.teachers import update_teachers
from tests.recipes.students import count, image, mimco, mocov3, paper_size

KINDS = ("infonce", "cosine", "smooth_l1", "mse")


@pytest.mark.parametrize(
    ("width", "encoder", "projector"), [(384, 21.59, 19.42), (768, 85.65, 20.99)]
)
def test_sizes_are_those_of_the_paper(width: int, encoder: float, projector: float) -> None:
    graph = paper_size("mocov3", width=width, stem_trained=True)
    assert count(graph.get_submodule("image")) / 1e6 == pytest.approx(encoder, abs=0.006)
    assert count(graph.get_submodule("projector")) / 1e6 == pytest.approx(projector, abs=0.006)
    assert count(graph.get_submodule("predictor")) / 1e6 == pytest.approx(2.11, abs=0.006)
    table = graph.get_submodule("image.positions").get_buffer("table")
    assert table.shape == (1, 197, width)
    frozen = paper_size("mocov3", width=width).get_submodule("image")
    assert count(graph.get_submodule("image")) - count(frozen) == 3 * 16 * 16 * width + width


def test_squares_of_32_pixels_are_hidden() -> None:
    graph = paper_size("mimco", {"previous": paper_size("mocov3", width=384, depth=1)})
    found = graph.get_submodule("mask")(torch.empty(4, 3, 1, 224, 224))["mask"]
    assert found.sum(1).tolist() == [120] * 4
    squares = found.view(4, 7, 2, 7, 2).transpose(2, 3).flatten(3)  # [4, 7, 7, 4]
    assert (squares == squares[..., :1]).all() and squares[..., 0].flatten(1).sum(1).eq(30).all()


def test_targets_do_not_depend_on_the_mask_and_the_student_sees_no_hidden_pixel() -> None:
    graph, x = mimco().eval(), image()
    names = ["tp", "tv", "ph", "vh", "m.mask"]
    torch.manual_seed(0)
    first = graph({"image": x}, names)
    torch.manual_seed(1)
    second = graph({"image": x}, names)
    assert not torch.equal(first["m.mask"], second["m.mask"])
    assert torch.equal(first["tp"], second["tp"]) and torch.equal(first["tv"], second["tv"])
    pixels = first["m.mask"].view(4, 1, 1, 4, 4)
    pixels = pixels.repeat_interleave(8, dim=3).repeat_interleave(8, dim=4)
    other = x + pixels * torch.randn(x.shape)
    torch.manual_seed(0)
    changed = graph({"image": other}, names)
    assert torch.equal(changed["ph"], first["ph"]) and torch.equal(changed["vh"], first["vh"])
    assert not torch.allclose(changed["tp"], first["tp"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_teacher_stays_as_it_is_and_each_weight_leads_to_its_head(kind: str) -> None:
    for weights, heads in (
        ({"image_weight": 0.0}, {"patch_head"}),
        ({"patch_weight": 0.0}, {"image_head"}),
        ({"image_weight": 0.0, "patch_weight": 0.0, "pixel_weight": 1.0}, {"pixel_head"}),
    ):
        graph = mimco(patch_loss=kind, image_loss=kind, **weights)
        graph.train()
        before = {k: v.clone() for k, v in graph.get_submodule("teacher").state_dict().items()}
        torch.stack(list(graph({"image": image()}).values())).sum().backward()
        found = {name.split(".")[0] for name, p in graph.named_parameters() if p.grad is not None}
        assert found == heads | {"image"}
        for key, value in graph.get_submodule("teacher").state_dict().items():
            assert torch.equal(value, before[key])


@pytest.mark.parametrize("kind", KINDS)
def test_only_hidden_tokens_count_and_targets_get_no_gradient(kind: str) -> None:
    loss = MatchTokens(kind=kind)  # type: ignore[arg-type]
    found = torch.randn(2, 5, 8, requires_grad=True)
    wanted = torch.randn(2, 5, 8, requires_grad=True)
    mask = torch.tensor([[1.0, 0, 0, 1, 1], [0, 1, 0, 0, 0]])
    loss(found, wanted, mask).backward()
    assert wanted.grad is None and found.grad is not None
    assert torch.equal(found.grad.abs().sum(-1) > 0, mask.bool())
    pictures = torch.randn(3, 8, requires_grad=True)
    MatchVectors(kind=kind)(found.mean(1), pictures[:2]).backward()  # type: ignore[arg-type]
    assert pictures.grad is None


def test_infonce_over_tokens_is_the_formula() -> None:
    found, wanted = torch.randn(2, 4, 8), torch.randn(2, 4, 8)
    mask = torch.tensor([[1.0, 0, 1, 0], [0, 1, 1, 1]])
    cosines = F.normalize(found, dim=-1) @ F.normalize(wanted, dim=-1).transpose(1, 2) / 0.2
    terms = [-cosines[b].log_softmax(-1)[i, i] for b, i in mask.nonzero().tolist()]
    expected = torch.stack(terms).mean()
    torch.testing.assert_close(MatchTokens(kind="infonce")(found, wanted, mask), expected)
    every = F.normalize(found, dim=-1).flatten(0, 1) @ F.normalize(wanted, dim=-1).flatten(0, 1).T
    terms = [
        -(every / 0.2).log_softmax(-1)[4 * b + i, 4 * b + i] for b, i in mask.nonzero().tolist()
    ]
    batch = MatchTokens(kind="infonce", negatives="batch")
    torch.testing.assert_close(batch(found, wanted, mask), torch.stack(terms).mean())


def test_losses_of_a_student_that_equals_its_teacher() -> None:
    x, mask = torch.randn(2, 6, 8), torch.ones(2, 6)
    assert MatchTokens(kind="cosine")(x, x, mask).abs() < 1e-6
    same = torch.randn(1, 1, 8).expand(2, 6, 8)  # negatives like the positive
    for tokens in (same, same * 3):
        assert MatchTokens(kind="infonce")(x, tokens, mask).item() == pytest.approx(math.log(6))
    assert MatchVectors(kind="infonce")(x[:, 0], same[:, 0]).item() == pytest.approx(math.log(2))
    own = MatchTokens(kind="infonce")(x, x, mask)
    assert own < MatchTokens(kind="infonce")(x, x.flip(1), mask)


def test_mocov3_starts_where_unrelated_vectors_do() -> None:
    a, b = F.normalize(torch.randn(512, 256), dim=1), F.normalize(torch.randn(512, 256), dim=1)
    loss = InfoNce(temperature=0.2, rescale=True)(a, b)
    assert loss.item() == pytest.approx(2 * 0.2 * math.log(512), rel=0.03)
    plain = InfoNce(temperature=0.2)(a, b)
    torch.testing.assert_close(loss, 0.4 * plain)


def views(rows: int) -> dict[str, Tensor]:
    """Two crops that have nothing in common."""
    torch.manual_seed(5)
    return {f"view{number}": torch.randn(rows, 3, 1, 32, 32) for number in (1, 2)}


def test_mocov3_contrasts_each_query_with_the_keys_of_the_other_crop() -> None:
    graph = mocov3()
    for name in ("teacher_image", "teacher_projector"):  # so that no key is what its query was
        for parameter in graph.get_submodule(name).parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    names = ["first", "second", "q1", "q2", "k1", "k2"]
    first, second, q1, q2, k1, k2 = graph(views(6), names).values()
    assert not k1.requires_grad and not k2.requires_grad
    for found, query, key in ((first, q1, k2), (second, q2, k1)):
        cosines = F.normalize(query, dim=1) @ F.normalize(key, dim=1).T
        expected = 2 * 0.2 * F.cross_entropy(cosines / 0.2, torch.arange(6))
        torch.testing.assert_close(found, expected)
    losses = graph(views(6))
    assert set(losses) == {"first", "second"}
    assert all(graph.losses[name].weight(0.0) == 1.0 for name in losses)


def test_mocov3_of_unrelated_vectors_starts_at_the_logarithm_of_the_batch() -> None:
    losses = mocov3(embedding=256, hidden=256)(views(128))
    total = sum(losses.values())
    assert isinstance(total, Tensor)
    assert total.item() == pytest.approx(2 * 2 * 0.2 * math.log(128), rel=0.05)


def test_mocov3_momentum_rises_to_1_and_teachers_follow() -> None:
    graph = mocov3()
    schedule = graph.teachers["teacher_image"].momentum
    assert schedule(0.0) == pytest.approx(0.99) and schedule(1.0) == pytest.approx(1.0)
    assert schedule(0.5) == pytest.approx(0.995)
    student = graph.get_submodule("image.encoder.blocks.0.mlp.fc1").get_parameter("weight")
    teacher = graph.get_submodule("teacher_image.encoder.blocks.0.mlp.fc1").get_parameter("weight")
    assert torch.equal(student, teacher)
    old = teacher.clone()
    with torch.no_grad():
        student.add_(torch.randn_like(student))
    update_teachers(graph, 0.0)
    torch.testing.assert_close(teacher, 0.99 * old + 0.01 * student)


def test_mocov3_first_weights_are_drawn_as_the_authors_do() -> None:
    tower = paper_size("mocov3", width=384)
    graph = mocov3(width=64, heads=2)
    weight = graph.get_submodule("image.encoder.blocks.0.attn.qkv").get_parameter("weight")
    for part in weight.chunk(3):
        assert part.abs().max().item() == pytest.approx(math.sqrt(6 / 128), rel=0.01)
    stem = graph.get_submodule("image.stem.proj").get_parameter("weight")
    assert not stem.requires_grad
    assert stem.abs().max().item() == pytest.approx(math.sqrt(6 / (3 * 64 + 64)), rel=0.01)
    assert graph.get_submodule("image.cls").get_parameter("cls_token").std() < 3e-6
    norms = [m for m in tower.get_submodule("projector").modules() if "Norm" in type(m).__name__]
    assert [norm.affine for norm in norms] == [True, True, False]

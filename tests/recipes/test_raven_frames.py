"""RAVEn (arXiv 2212.06246): which frames are hidden from whom, and which count in which loss."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from avssl.graph.graph import Graph
from avssl.ops.frames import valid_frames
from tests.recipes.raven import LENGTHS, batch, tiny

NODES = ["vm", "am", "va", "vv", "aa", "av", "tv.tokens", "ta.tokens"]


def watch(graph: Graph, name: str) -> list[dict[str, Any]]:
    """What a module of the graph is given and what it gives, call by call."""
    seen: list[dict[str, Any]] = []

    def keep(_: nn.Module, args: tuple, kwargs: dict[str, Any], out: Any) -> None:
        seen.append({"in": args[0] if args else kwargs["x"], "out": out})

    graph.get_submodule(name).register_forward_hook(keep, with_kwargs=True)
    return seen


def test_a_mask_is_zeros_for_the_encoder_and_a_learned_vector_for_its_predictors() -> None:
    """1 stands for masked all along, and a frame of sound is hidden with all its 640 samples."""
    graph, whole = tiny(depth=1, video_to_video=1.0), batch()
    valid = valid_frames(whole["frames"], *whole["audio"].shape[:2])
    students = {"video": "vm", "audio": "am"}
    inputs = {name: watch(graph, f"{name}.stem") for name in students}
    tasks = ("video_to_audio", "video_to_video", "audio_to_audio", "audio_to_video")
    predictors = {task: students[task.split("_")[0]] for task in tasks}
    filled = {name: watch(graph, f"{name}.fill") for name in predictors}
    masks = graph(whole, [*students.values(), *NODES])
    for name, mask in students.items():
        hidden = masks[mask].bool()
        assert hidden.any() and not (hidden & ~valid).any() and (valid & ~hidden).any()
        (call,) = inputs[name]
        axis = 2 if name == "video" else 1
        given, original = (x.movedim(axis, 1).flatten(2) for x in (call["in"], whole[name]))
        assert not given[hidden].any()
        assert torch.equal(given[valid & ~hidden], original[valid & ~hidden])
    for name, mask in predictors.items():
        hidden = masks[mask].bool()
        token = graph.get_parameter(f"{name}.fill.token")
        (call,) = filled[name]
        assert (call["out"][hidden] == token).all()
        assert torch.equal(call["out"][~hidden], call["in"][~hidden])


def cosine(prediction: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    """The recipe's formula, frame by frame."""
    rows = [
        torch.dot(prediction[place], target[place])
        / (prediction[place].norm() * target[place].norm())
        for place in map(tuple, counted.nonzero().tolist())
    ]
    return -torch.stack(rows).sum() / counted.sum()


def test_a_loss_within_a_modality_counts_masked_frames_and_one_across_all_real_ones() -> None:
    """Targets are a teacher's last features as they are."""
    graph, whole = tiny(depth=1, video_to_video=1.0), batch()
    found = graph(whole, [*NODES, "l_va", "l_vv", "l_aa", "l_av"])
    valid = valid_frames(whole["frames"], *whole["audio"].shape[:2])
    video, audio = found["tv.tokens"], found["ta.tokens"]
    for name, target, counted in (
        ("va", audio, valid),
        ("av", video, valid),
        ("aa", audio, found["am"].bool()),
        ("vv", video, found["vm"].bool()),
    ):
        torch.testing.assert_close(found[f"l_{name}"], cosine(found[name], target, counted))


@pytest.mark.parametrize("target_norm", ["none", "layer", "instance", "whiten"])
def test_padded_frames_never_count(target_norm: str) -> None:
    """What stands behind the end of a clip changes neither a loss nor a gradient."""
    results = []
    for filler in (0.0, 9.0):
        graph, whole = tiny(depth=1, video_to_video=1.0, target_norm=target_norm), batch()
        for row, length in enumerate(LENGTHS):
            whole["video"][row, :, length:] = filler
            whole["audio"][row, length:] = filler
        torch.manual_seed(3)
        losses = graph(whole)
        total = sum(losses.values())
        assert isinstance(total, Tensor)
        total.backward()
        gradients = [p.grad for p in graph.parameters() if p.grad is not None]
        results.append([*losses.values(), *gradients])
    for clean, filled in zip(*results, strict=True):
        assert torch.equal(clean, filled)

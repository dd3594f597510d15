"""RAVEn's released encoders: their names, against the recipe read step by step in plain torch."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from avssl.errors import UserError
from avssl.graph.graph import Graph
from avssl.weights.foreign import read_foreign
from avssl.weights.initial import foreign_reference
from tests.recipes.raven import indices
from tests.weights.plain import build, layers, save, worst
from tests.weights.raven import encode, raven

SIZE = {"channels": 8, "width": 24, "depth": 2, "heads": 2, "hidden": 40}
LENGTHS = (6, 4)
RANDOM = torch.Generator().manual_seed(3)
CLIPS = {
    "video": [torch.randn(1, length, 24, 24, generator=RANDOM) for length in LENGTHS],
    "audio": [torch.randn(length * 640, generator=RANDOM) for length in LENGTHS],
}


def padded(kind: str) -> Tensor:
    """Both clips in one batch, zeros behind the shorter one."""
    clips = CLIPS[kind] if kind == "video" else [clip.view(-1, 640) for clip in CLIPS[kind]]
    axis = 1 if kind == "video" else 0
    shape = list(clips[0].shape)
    batch = torch.zeros(len(clips), *shape)
    for row, clip in enumerate(clips):
        batch[row].narrow(axis, 0, clip.shape[axis]).copy_(clip)
    return batch


@pytest.mark.parametrize("kind", ["video", "audio"])
def test_features_are_those_of_the_recipe(kind: str, tmp_path: Path) -> None:
    state = raven(kind, **SIZE)
    foreign = read_foreign(save(tmp_path, state), sizes={"image": 24} if kind == "video" else None)
    assert foreign.layout == f"raven_{kind}"
    tower = build(foreign).get_submodule(kind)
    found, out = layers(tower, x=padded(kind), frames=indices(LENGTHS, 6))
    assert not out["tokens"][1, 4:].any()
    for row, clip in enumerate(CLIPS[kind]):
        expected = encode(state, kind, clip)
        ours = [layer[row, : len(expected[0])] for layer in [*found, out["tokens"]]]
        assert worst(ours, expected) < 1e-4
        torch.testing.assert_close(out["pooled"][row], expected[-1].mean(0), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["video", "audio"])
def test_old_names_and_fine_tuned_files(kind: str, tmp_path: Path) -> None:
    state = raven(kind, **SIZE)
    plain = read_foreign(save(tmp_path, state))
    old = {"encoder.embed.": "encoder.input_layer.", "encoder.after_norm.": "encoder.norm."}
    other = dict(state)
    for new, name in old.items():
        other = {key.replace(new, name): item for key, item in other.items()}
    other |= {"ctc.ctc_lo.weight": torch.ones(9, 24), "decoder.embed.0.weight": torch.ones(9, 16)}
    other |= {"decoder.decoders.0.norm1.weight": torch.ones(16)}
    foreign = read_foreign(save(tmp_path, other, "fine.pth"))
    for key, item in plain.weights[kind].items():
        assert torch.equal(foreign.weights[kind][key], item)
    told = next(line for line in foreign.report if line.startswith("left out"))
    assert "ctc.* 1" in told and "decoder.* 2" in told
    with pytest.raises(UserError, match=r"1 tensors are unexpected: predictor\.weight"):
        read_foreign(save(tmp_path, {**state, "predictor.weight": torch.ones(2)}))


def test_without_layer_scale_and_with_layer_norm(tmp_path: Path) -> None:
    gone = ("gamma_", "norm_ff.running", "norm_ff.num")
    state = {k: v for k, v in raven("audio", **SIZE).items() if not any(g in k for g in gone)}
    foreign = read_foreign(save(tmp_path, state))
    assert foreign.args["layer_scale"] == 0 and foreign.args["ffn_norm"] == "layer"
    build(foreign)


def test_it_starts_the_student_and_its_teacher(tmp_path: Path) -> None:
    path = save(tmp_path, raven("audio", **SIZE))
    args = {f"predictor_{name}": SIZE[name] for name in ("width", "depth", "heads", "hidden")}
    origin = f"{path}:audio"
    graph = Graph.from_file(
        "configs/graphs/raven.yaml",
        args={**SIZE, **args, "features": 64, "image": 24, "audio_init": origin},
        references={str(path): foreign_reference(path)},
    )
    weights = read_foreign(path).weights["audio"]
    for module in ("audio", "teacher_audio"):
        for key, item in graph.get_submodule(module).state_dict().items():
            assert torch.equal(item, weights[key])

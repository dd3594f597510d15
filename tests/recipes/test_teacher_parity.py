"""The towers of MAE, VideoMAE and MoCo v3 give what transformers and timm give for the same
weights, which come in by the import maps: at small sizes; counts are those of the real ones."""

from pathlib import Path

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers import VideoMAEConfig, VideoMAEModel, ViTMAEConfig, ViTMAEModel

from avssl.graph.graph import Graph
from avssl.train.experiment import References
from tests.recipes.released import released_mocov3, released_videomae
from tests.recipes.students import CONFIGS, count, paper_size
from tests.weights.plain import code_2d, layers, picture_positions, randomise, save, worst

CLOSE = 1e-4
SMALL = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 192,
    "image_size": 32,
    "patch_size": 8,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "layer_norm_eps": 1e-6,
}
ARGS = {"width": 48, "depth": 3, "heads": 3, "image": 32, "patch": 8}
DECODER = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}


def graph(name: str, **args: object) -> Graph:
    path = CONFIGS / "graphs" / f"{name}.yaml"
    references = References({}, Path.cwd())
    return Graph.from_file(path, args=args, references=references).eval()


def with_own_positions(model: nn.Module, table: nn.Parameter) -> nn.Module:
    """Random weights, but the positions as they are."""
    made = table.detach().clone()
    randomise(model)
    table.data.copy_(made)
    return model


def test_mae_is_that_of_transformers(tmp_path: Path) -> None:
    model = ViTMAEModel(ViTMAEConfig(**SMALL, mask_ratio=0.0))
    model.embeddings.position_embeddings.data[:, 1:] = picture_positions(4, 48)  # MAE's formula
    with_own_positions(model, model.embeddings.position_embeddings)
    model.save_pretrained(tmp_path / "mae")
    x = torch.randn(2, 3, 32, 32)
    order = torch.arange(16.0).expand(2, -1)  # nothing is hidden, and nothing moves
    with torch.no_grad():
        theirs = model(x, noise=order, output_hidden_states=True)
    tower = graph("mae", **ARGS, **DECODER, tap=2, init=f"{tmp_path / 'mae'}:image").image
    found, out = layers(tower, x=x.unsqueeze(2))
    hidden = [*theirs.hidden_states, theirs.last_hidden_state]
    assert worst([*found, out["tokens"]], hidden) < CLOSE
    assert worst([out["tap"]], [theirs.hidden_states[2]]) < CLOSE
    # a model that starts afresh has these positions
    fresh = graph("mae", **ARGS, **DECODER).image.positions.table
    torch.testing.assert_close(fresh, model.embeddings.position_embeddings.data, atol=1e-6, rtol=0)


def test_videomae_is_that_of_transformers(tmp_path: Path) -> None:
    config = VideoMAEConfig(**SMALL, num_frames=4, use_mean_pooling=False)
    model = randomise(VideoMAEModel(config))
    x = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        theirs = model(x.transpose(1, 2), output_hidden_states=True)
    path = save(tmp_path, released_videomae(model))
    sizes = {"heads": 3, "image": 32, "frames": 4}
    init = {"file": str(path), "module": "video", "sizes": sizes}
    tower = graph("videomae", **ARGS, **DECODER, frames=4, mask=0.7, init=init).video
    found, out = layers(tower, x=x)
    hidden = [*theirs.hidden_states, theirs.last_hidden_state]
    assert worst([*found, out["tokens"]], hidden) < CLOSE
    fresh = graph("videomae", **ARGS, **DECODER, frames=4, mask=0.7).video.positions.table
    torch.testing.assert_close(fresh, model.embeddings.position_embeddings, atol=1e-6, rtol=0)


def rows_first(side: int, width: int) -> Tensor:
    """MoCo v3's table [1, 1 + N, D]: zeros for CLS; the first half of the channels tells the row,
    the other the column."""
    table = torch.zeros(1, 1 + side * side, width)
    for place in range(side * side):
        row, column = divmod(place, side)
        codes = [code_2d(column, row, channel, width) for channel in range(width)]
        table[0, 1 + place] = torch.tensor(codes)
    return table


def test_mocov3_small_is_timms_with_12_heads_and_fixed_positions(tmp_path: Path) -> None:
    sizes = {"img_size": 64, "patch_size": 16, "embed_dim": 384, "num_heads": 12}
    model = VisionTransformer(**sizes, depth=2, num_classes=0)
    model.pos_embed.data = rows_first(4, 384)
    with_own_positions(model, model.pos_embed)
    path = save(tmp_path, released_mocov3(model.state_dict()), "vit-s-300ep.pth.tar")
    args = {"width": 384, "depth": 2, "heads": 12, "image": 64, "hidden": 8, "embedding": 8}
    tower = graph("mocov3", **args, init=f"{path}:image").image
    x = torch.randn(2, 3, 64, 64)
    theirs: list[Tensor] = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, given, out: theirs.append(out))
    with torch.no_grad():
        theirs.append(model.forward_features(x))
    found, out = layers(tower, x=x.unsqueeze(2))
    assert worst([*found[1:], out["tokens"]], theirs) < CLOSE
    fresh = graph("mocov3", **args).image
    torch.testing.assert_close(fresh.positions.table, model.pos_embed.data, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "module", "args"),
    [
        ("mae", "image", {}),
        ("videomae", "video", {}),
        ("mocov3", "image", {"width": 384, "stem_trained": True}),
    ],
)
def test_real_sizes_have_the_libraries_counts(
    name: str, module: str, args: dict[str, object]
) -> None:
    with torch.device("meta"):
        made: dict[str, nn.Module] = {
            "mae": ViTMAEModel(ViTMAEConfig()),
            "videomae": VideoMAEModel(VideoMAEConfig(use_mean_pooling=False)),
            "mocov3": VisionTransformer(embed_dim=384, num_heads=12, num_classes=0),
        }
    fixed = ("pos_embed", "position_embeddings")
    theirs = sum(
        item.numel() for key, item in made[name].named_parameters() if not key.endswith(fixed)
    )
    ours = count(paper_size(name, **args).get_submodule(module))
    key_biases = 12 * 768 if name == "videomae" else 0  # zero here, none in the library's
    assert ours - key_biases == theirs

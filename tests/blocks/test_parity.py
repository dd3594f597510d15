"""Blocks against timm and transformers under the same weights."""

import functools

import pytest
import timm.layers
import torch
from timm.models.vision_transformer import Block as TimmBlock
from torch import Tensor, nn
from transformers import ViTMAEConfig, ViTMAEForPreTraining
from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding

from avssl.blocks.layers import LayerNorm, Linear, PatchHead
from avssl.blocks.masks import RandomMask
from avssl.blocks.positions import SinCos2d
from avssl.blocks.stems import PatchEmbed2d, PatchEmbed3d
from avssl.blocks.targets import Patchify2d
from avssl.blocks.tokens import ClsToken, DropCls, RestoreTokens
from avssl.blocks.transformer import Transformer
from avssl.losses.reconstruction import TokenRegression

EXACT = {"rtol": 1e-5, "atol": 1e-5}
NORM = functools.partial(nn.LayerNorm, eps=1e-6)


def randomise(module: nn.Module) -> nn.Module:
    """Weights with nothing at 0 or 1, so that a forgotten one shows."""
    torch.manual_seed(5)
    for parameter in module.parameters():
        nn.init.normal_(parameter, mean=0.05, std=0.15)
    return module.eval()


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_transformer_is_timms(qkv_bias: bool) -> None:
    theirs = [TimmBlock(48, 3, qkv_bias=qkv_bias, norm_layer=NORM).eval() for _ in range(2)]
    ours = randomise(Transformer(width=48, depth=2, heads=3, qkv_bias=qkv_bias))
    for block, state in zip(theirs, ours.blocks, strict=True):
        block.load_state_dict(state.state_dict())  # the same names, in the same shapes
    x = torch.randn(2, 7, 48)
    torch.testing.assert_close(ours(x), theirs[1](theirs[0](x)), **EXACT)


def test_patch_embedding_is_timms() -> None:
    theirs = randomise(timm.layers.PatchEmbed(img_size=(32, 16), patch_size=8, embed_dim=24))
    ours = PatchEmbed2d(channels=3, width=24, patch=[8, 8])
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 32, 16)
    torch.testing.assert_close(ours(x), theirs(x), **EXACT)


def test_tubelet_embedding_of_a_still_clip_is_the_image_embedding_of_the_summed_kernel() -> None:
    clip = randomise(PatchEmbed3d(channels=3, width=24, patch=[2, 8, 8]))
    image = PatchEmbed2d(channels=3, width=24, patch=[8, 8])
    image.proj.weight.data = clip.proj.weight.data.sum(2)
    image.proj.bias.data = clip.proj.bias.data
    x = torch.randn(2, 3, 16, 16)
    tokens = clip(x.unsqueeze(2).expand(-1, -1, 4, -1, -1))  # [2, 8, 24], 2 steps of 4 places
    torch.testing.assert_close(tokens[:, :4], image(x), **EXACT)
    torch.testing.assert_close(tokens[:, 4:], image(x), **EXACT)


class Mae(nn.Module):
    """MAE from our blocks, for the weights of transformers' ViTMAEForPreTraining."""

    def __init__(self, config: ViTMAEConfig) -> None:
        super().__init__()
        width, decoder_width = config.hidden_size, config.decoder_hidden_size
        size, patch = [config.image_size] * 2, [config.patch_size] * 2
        self.stem = PatchEmbed2d(channels=3, width=width, patch=patch)
        self.positions = SinCos2d(width=width, size=size, patch=patch)
        self.mask = RandomMask(ratio=config.mask_ratio, patch=patch)
        self.cls, self.drop = ClsToken(width=width), DropCls()
        self.encoder = Transformer(
            width=width, depth=config.num_hidden_layers, heads=config.num_attention_heads
        )
        self.norm = LayerNorm(width=width)
        self.embed = Linear(width=width, out=decoder_width)
        self.restore = RestoreTokens(width=decoder_width)
        self.decoder_positions = SinCos2d(width=decoder_width, size=size, patch=patch, cls=True)
        self.decoder = Transformer(
            width=decoder_width,
            depth=config.decoder_num_hidden_layers,
            heads=config.decoder_num_attention_heads,
        )
        self.decoder_norm = LayerNorm(width=decoder_width)
        self.head = PatchHead(width=decoder_width, patch=patch, channels=3)
        self.targets = Patchify2d(
            patch=patch, normalize="patch" if config.norm_pix_loss else "none"
        )
        self.loss = TokenRegression()
        for module in self.children():
            if hasattr(module, "init_weights"):
                module.init_weights()

    def load(self, theirs: dict[str, Tensor]) -> None:
        """Take their weights; every tensor of theirs has a place, every one of ours a source."""
        names = {
            "vit.embeddings.cls_token": "cls.cls_token",
            "vit.embeddings.position_embeddings": "",
            "vit.embeddings.patch_embeddings.projection": "stem.proj",
            "vit.layernorm": "norm.norm",
            "vit.layers": "encoder.blocks",
            "decoder.decoder_embed": "embed.proj",
            "decoder.mask_token": "restore.mask_token",
            "decoder.decoder_pos_embed": "",
            "decoder.decoder_layers": "decoder.blocks",
            "decoder.decoder_norm": "decoder_norm.norm",
            "decoder.decoder_pred": "head.proj",
            ".layernorm_before": ".norm1",
            ".layernorm_after": ".norm2",
            ".attention.o_proj": ".attn.proj",
        }
        found = {"positions.table": self.positions.table}
        found["decoder_positions.table"] = self.decoder_positions.table
        for key, value in theirs.items():
            for old, new in names.items():
                key = new if old == key else key.replace(f"{old}.", f"{new}.")
            if key and ".attention.q_proj." in key:
                parts = [theirs_of(theirs, value, part) for part in "qkv"]
                found[key.replace("attention.q_proj", "attn.qkv")] = torch.cat(parts)
            elif key and ".attention." not in key:
                found[key] = value
        self.load_state_dict(found)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        masks = self.mask(image)
        keep = masks["keep"]
        x = self.cls(self.positions(self.stem(image, keep), keep))
        x = self.restore(self.embed(self.norm(self.encoder(x))), masks["restore"])
        x = self.decoder_norm(self.decoder(self.decoder_positions(x)))
        prediction = self.head(self.drop(x))
        loss = self.loss(prediction, self.targets(image), masks["mask"])
        return loss, prediction, masks["mask"]


def theirs_of(state: dict[str, Tensor], query: Tensor, part: str) -> Tensor:
    """The q, k or v projection beside a query projection."""
    name = next(key for key, value in state.items() if value is query)
    return state[name.replace("q_proj", f"{part}_proj")]


def their_positions(width: int) -> Tensor:
    """The table of the released MAE weights for a 4 x 4 grid: their halves swapped."""
    row_first = build_2d_sinusoidal_position_embedding(4, 4, width, cls_token=True)
    return torch.cat([row_first[:, width // 2 :], row_first[:, : width // 2]], dim=1)[None]


@pytest.mark.parametrize("normalize", [True, False])
def test_mae_from_our_blocks_is_transformers_mae(
    normalize: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ViTMAEConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=64,
        image_size=32,
        patch_size=8,
        mask_ratio=0.75,
        norm_pix_loss=normalize,
        layer_norm_eps=1e-6,
    )
    theirs = ViTMAEForPreTraining(config).eval()
    randomise(theirs)
    positions, decoder_positions = their_positions(32), their_positions(16)
    theirs.vit.embeddings.position_embeddings.data = positions  # fixed, not random
    theirs.decoder.decoder_pos_embed.data = decoder_positions
    ours = Mae(config).eval()
    ours.load(dict(theirs.state_dict()))

    image, noise = torch.randn(3, 3, 32, 32), torch.rand(3, 16)
    monkeypatch.setattr("avssl.blocks.masks.batch_uniform", lambda *_, device: noise)
    expected = theirs(image, noise=noise)
    loss, prediction, mask = ours(image)
    torch.testing.assert_close(ours.positions.table, positions[:, 1:], **EXACT)
    torch.testing.assert_close(ours.decoder_positions.table, decoder_positions, **EXACT)
    assert torch.equal(mask, expected.mask)
    torch.testing.assert_close(prediction, expected.logits, **EXACT)
    torch.testing.assert_close(loss, expected.loss, **EXACT)
    patches = Patchify2d(patch=[8, 8], normalize="none")(image)
    assert torch.equal(patches, theirs.patchify(image))

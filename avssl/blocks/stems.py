"""Stems: from pictures, spectrograms and clips to tokens.

Letters: B batch, C channels, T frames, H W height width, N patches, D width.
"""

from torch import Tensor, nn

from avssl.blocks.init import init_layers
from avssl.ops.patches import patch_grid
from avssl.registry import register


@register("patch_embed_2d")
class PatchEmbed2d(nn.Module):
    """One linear projection per patch of an image or a spectrogram (ViT, arXiv 2010.11929, 3.1).

    Args:
        channels: channels of the input.
        width: D.
        patch: rows and columns of a patch, for example [16, 16].

    Example::

        stem = PatchEmbed2d(channels=1, width=768, patch=[16, 16])
        stem.init_weights()
        tokens = stem(torch.randn(2, 1, 1024, 128))  # [2, 512, 768], index = row * 8 + column
    """

    outputs = ("tokens",)

    def __init__(self, *, channels: int, width: int, patch: list[int]) -> None:
        super().__init__()
        if len(patch) != 2:
            raise ValueError(f"patch_embed_2d needs a patch of 2 lengths, not {patch}")
        self.patch = list(patch)
        rows, columns = patch
        self.proj = nn.Conv2d(channels, width, (rows, columns), (rows, columns))

    def init_weights(self) -> None:
        init_layers(self)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, C, H, W], whole patches, else ValueError. Returns [B, N, D]."""
        patch_grid(x.shape[2:], self.patch)
        return self.proj(x).flatten(2).transpose(1, 2)  # [B, N, D]


@register("patch_embed_3d")
class PatchEmbed3d(nn.Module):
    """One linear projection per tubelet of a clip (ViViT, arXiv 2103.15691, 3.2).

    Args:
        channels: channels of the input.
        width: D.
        patch: frames, rows and columns of a tubelet, for example [2, 16, 16].

    Example::

        stem = PatchEmbed3d(channels=3, width=768, patch=[2, 16, 16])
        stem.init_weights()
        tokens = stem(torch.randn(2, 3, 8, 224, 224))  # [2, 784, 768], index = t * 196 + h * 14 + w
    """

    outputs = ("tokens",)

    def __init__(self, *, channels: int, width: int, patch: list[int]) -> None:
        super().__init__()
        if len(patch) != 3:
            raise ValueError(f"patch_embed_3d needs a patch of 3 lengths, not {patch}")
        self.patch = list(patch)
        frames, rows, columns = patch
        self.proj = nn.Conv3d(channels, width, (frames, rows, columns), (frames, rows, columns))

    def init_weights(self) -> None:
        init_layers(self)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, C, T, H, W], whole patches, else ValueError. Returns [B, N, D]."""
        patch_grid(x.shape[2:], self.patch)
        return self.proj(x).flatten(2).transpose(1, 2)  # [B, N, D]

"""MAViL stage 1 written directly in PyTorch, to measure and check the configured graph against.

Nothing here is shared with the blocks; ``load_graph`` takes a graph's weights by name.
Letters: B batch, N patches, K seen patches, D width.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RENAMED = {
    "stem.proj": "patch",
    "positions.table": "position",
    "cls.cls_token": "cls",
    "encoder.blocks": "blocks",
    "decoder.blocks": "blocks",
    "embed.proj": "embed",
    "fill.mask_token": "mask_token",
    "norm.norm": "norm",
    "audio_head.proj": "audio_head",
    "video_head.proj": "video_head",
}


class Block(nn.Module):
    """A pre-norm ViT block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict(
            {"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)}
        )
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)}
        )

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        qkv = self.attn["qkv"](self.norm1(x)).reshape(b, n, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, H, N, Dh]
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d)
        x = x + self.attn["proj"](out)
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class Tower(nn.Module):
    """Seen patches, positions, CLS, blocks. Gives tokens and their mean without CLS."""

    position: Tensor

    def __init__(
        self, conv: nn.Conv2d | nn.Conv3d, patches: int, width: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        self.patch = conv
        self.register_buffer("position", torch.zeros(1, patches, width))
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))

    def forward(self, x: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.gather(x, 1, keep[:, :, None].expand(-1, -1, x.shape[-1]))
        x = F.linear(x, self.patch.weight.flatten(1), self.patch.bias)
        x = x + self.position[0].index_select(0, keep.flatten()).view_as(x)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        return x, x[:, 1:].mean(1)


class Decoder(nn.Module):
    """Project, fill in mask tokens in the original order, positions, blocks, norm."""

    position: Tensor

    def __init__(
        self, patches: int, encoder_width: int, width: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("position", torch.zeros(1, 1 + patches, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor, restore: Tensor) -> Tensor:
        x = self.embed(x)
        hidden = self.mask_token.expand(len(x), restore.shape[1] - x.shape[1] + 1, -1)
        y = torch.cat([x[:, 1:], hidden], dim=1)
        y = torch.gather(y, 1, restore[:, :, None].expand(-1, -1, y.shape[-1]))
        x = torch.cat([x[:, :1], y], dim=1) + self.position
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 1:]


class Fusion(nn.Module):
    """Blocks over the tokens of both towers."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class MavilByHand(nn.Module):
    """The whole of stage 1 for one process, with the losses of ``graphs/mavil_stage1.yaml``.

    Args:
        args: the arguments of that graph, all of them.
    """

    def __init__(self, args: Mapping[str, float]) -> None:
        super().__init__()
        number = {key: int(value) for key, value in args.items() if isinstance(value, int)}
        p, q, t = number["audio_patch"], number["video_patch"], number["tubelet"]
        width, heads = number["width"], number["heads"]
        self.patches = {
            "audio": number["mel_frames"] // p * (number["mel_bins"] // p),
            "video": number["frames"] // t * (number["image"] // q) ** 2,
        }
        self.args, self.p, self.q, self.t = args, p, q, t
        audio_stem = nn.Conv2d(1, width, (p, p), (p, p))
        video_stem = nn.Conv3d(3, width, (t, q, q), (t, q, q))
        size = (width, number["depth"], heads)
        self.audio = Tower(audio_stem, self.patches["audio"], *size)
        self.video = Tower(video_stem, self.patches["video"], *size)
        self.fusion = Fusion(width, number["fusion_depth"], heads)
        small = (number["decoder_width"], number["decoder_depth"], number["decoder_heads"])
        self.audio_decoder = Decoder(self.patches["audio"], width, *small)
        self.video_decoder = Decoder(self.patches["video"], width, *small)
        self.audio_head = nn.Linear(small[0], p * p)
        self.video_head = nn.Linear(small[0], t * q * q * 3)

    def load_graph(self, graph: nn.Module) -> None:
        """Take every weight of the graph; none may be left over on either side."""
        state = {}
        for key, value in graph.state_dict().items():
            for old, new in RENAMED.items():
                key = key.replace(old, new)
            state[key] = value
        self.load_state_dict(state)

    def mask(
        self, batch: int, modality: str, device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor]:
        """keep, restore and mask of one view."""
        patches = self.patches[modality]
        seen = int(patches * (1 - self.args[f"{modality}_mask"]) + 1e-6)
        order = torch.rand(batch, patches, device=device).argsort(1)
        restore = order.argsort(1)
        return order[:, :seen], restore, (restore >= seen).float()

    def nce(self, x: Tensor, y: Tensor, temperature: float) -> Tensor:
        """One direction of the contrast."""
        with torch.autocast(x.device.type, enabled=False):
            x, y = F.normalize(x.float(), dim=-1), F.normalize(y.float(), dim=-1)
            positives = torch.arange(len(x), device=x.device)
            return F.cross_entropy(x @ y.T / temperature, positives)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The four losses, unweighted."""
        audio, video, args = batch["audio"], batch["video"], self.args
        b, device = len(audio), audio.device
        keep_a, restore_a, mask_a = self.mask(b, "audio", device)
        keep_v, restore_v, mask_v = self.mask(b, "video", device)
        p, q, t = self.p, self.q, self.t
        rows = audio.unfold(2, p, p).unfold(3, p, p)  # [B, 1, T/p, F/p, p, p]
        tubes = video.unfold(2, t, t).unfold(3, q, q).unfold(4, q, q)
        a_patches = rows.permute(0, 2, 3, 1, 4, 5).reshape(b, self.patches["audio"], -1)
        v_patches = tubes.permute(0, 2, 3, 4, 1, 5, 6, 7).reshape(b, self.patches["video"], -1)
        a, pooled_a = self.audio(a_patches, keep_a)
        v, pooled_v = self.video(v_patches, keep_v)
        x = self.fusion(torch.cat([a, v], dim=1))
        a_out = self.audio_head(self.audio_decoder(x[:, : a.shape[1]], restore_a))
        v_out = self.video_head(self.video_decoder(x[:, a.shape[1] :], restore_v))
        keep_a, _, _ = self.mask(b, "audio", device)
        keep_v, _, _ = self.mask(b, "video", device)
        _, other_a = self.audio(a_patches, keep_a)
        _, other_v = self.video(v_patches, keep_v)
        a_target = rows.permute(0, 2, 3, 4, 5, 1).reshape(b, self.patches["audio"], -1)
        v_target = tubes.permute(0, 2, 3, 4, 5, 6, 7, 1).reshape(b, self.patches["video"], -1)
        tau, tau_intra = float(args["inter_temperature"]), float(args["intra_temperature"])
        return {
            "audio_raw": _masked_mse(a_out, a_target, mask_a),
            "video_raw": _masked_mse(v_out, v_target, mask_v),
            "inter": (self.nce(pooled_a, pooled_v, tau) + self.nce(pooled_v, pooled_a, tau)) / 2,
            "intra": (
                self.nce(pooled_a, other_a, tau_intra) + self.nce(pooled_v, other_v, tau_intra)
            )
            / 2,
        }


def _masked_mse(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    mean = target.mean(-1, keepdim=True)
    variance = (target - mean).square().sum(-1, keepdim=True) / (target.shape[-1] - 1)
    target = (target - mean) / (variance + 1e-6).sqrt()
    error = F.mse_loss(prediction.float(), target.float(), reduction="none").mean(-1)
    return (error * mask).sum() / mask.sum()

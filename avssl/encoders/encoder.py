"""An encoder: towers of a trained graph, and their fusion, with layers, pooling and preparation.

Letters: B batch (windows, or clips), N tokens, D width, L layers asked for.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from avssl.data.batches import finish_inputs, frame_counts, stack_inputs, zero_inputs
from avssl.data.config import DataConfig, FixedRecipe, Recipe
from avssl.data.length_config import REAL
from avssl.encoders.fingerprint import fingerprint
from avssl.encoders.layers import blocks_of, caught_layers, prefix_tokens
from avssl.encoders.pooling import POOLS, Pool, cut, join, row_of, tensors_of
from avssl.encoders.roles import Fusion, Tower
from avssl.encoders.windows import Span, given_clips
from avssl.errors import UserError
from avssl.ops.frames import mean_frames

TOKENS = "tokens"  # the output port of every tower: prefix tokens (CLS), then the patches


class Encoder(nn.Module):
    """A tower, or several with the fusion of their tokens, as plain PyTorch module.

    Attributes:
        name: "audio", "video", "audio_video", or a module's name.
        data: how its inputs are made: window and recipes of these inputs alone.
        towers: the underlying modules by name. fusion: the module that joins them, if any.
        any_length: inputs of `encode` are not held against the trained shapes; for exports, whose
            positions fit shorter ones.
    """

    def __init__(
        self,
        name: str,
        data: DataConfig,
        towers: Mapping[str, nn.Module],
        roles: Mapping[str, Tower],
        *,
        fusion: nn.Module | None = None,
        fusion_role: Fusion | None = None,
    ) -> None:
        super().__init__()
        self.name, self.data = name, data
        self.towers = nn.ModuleDict(towers)
        self.fusion = fusion
        self.any_length = False
        self._roles, self._fusion_role = dict(roles), fusion_role
        self.eval()

    @property
    def inputs(self) -> dict[str, Recipe]:
        """The inputs it reads and how each is made."""
        return self.data.inputs

    @property
    def fixed_inputs(self) -> dict[str, FixedRecipe]:
        """The inputs, each of a fixed size.

        Raises UserError where clips keep their own length.
        """
        return self.data.fixed_inputs

    @property
    def tower(self) -> nn.Module:
        """The only tower.

        Raises UserError when there are several.
        """
        if len(self.towers) > 1:
            raise UserError(f"{self.name} has the towers {', '.join(self.towers)}: name one")
        return next(iter(self.towers.values()))

    @property
    def depth(self) -> int:
        """Blocks whose outputs `layer` can name: of the fusion where there is one, otherwise of the
        tower that has fewest."""
        return min(len(blocks_of(module)) for module in self._deep())

    @functools.cached_property
    def width(self) -> int:
        """D of the pooled features."""
        with torch.no_grad():
            return self.encode(zero_inputs(self.inputs, device=self.device)).shape[-1]

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that differ where weights, structure or preparation do."""
        return fingerprint(self)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights; inputs are brought to it."""
        return next(self.parameters()).dtype

    def forward(
        self,
        x: Any,
        *,
        sample_rate: int | None = None,
        fps: float | None = None,
        layer: int | Sequence[int] | None = None,
        pool: Pool = "mean",
        span: Span = "all",
        batch_size: int = 32,
    ) -> Any:
        """Features of clips of any length, prepared as in training.

        Clips longer than the window the encoder was trained on are cut into windows, the last of
        which ends with the clip; pooled features are the mean over the windows. Shorter ones are
        repeated, as in training, or keep their length, where they did in training. Gradients are
        recorded in training mode only (`encode` always records them).

        Args:
            x: a path or a list of paths (media, pictures); or waveforms, float in [-1, 1] or int16:
                [N], [B, N], or a list of [N]; or pictures, uint8 RGB: [T, H, W, 3], or a list of
                these; for an encoder of both, paths or {"audio": ..., "video": ...}.
            sample_rate: Hz of waveforms.
            fps: pictures per second.
            layer: 0 for the embedded patches, k for the output of block k, -1 for that of the last
                (of each tower its own), None for the encoder's own output; of the fusion, where
                there is one. A list adds a leading axis [L].
            pool: "mean" over patches, as MAViL's own heads have it (AST means its two prefix tokens
                instead), "cls" for the first token, "none" for every patch's token.
            span: "all" of a clip, or the "middle" window alone, as probes and retrieval use.
            batch_size: windows encoded at a time.

        Returns:
            [B, D], one row per clip; with pool="none" a list of [N, D], where the windows of a long
            clip follow each other (for an encoder of both, of {"audio": ..., "video": ...}).

        Raises:
            UserError: a clip cannot be read, is empty or not finite, or an argument is missing.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise UserError(f"batch_size={batch_size!r} must be a whole number above 0")
        layer = _asked(layer)
        clips, windows = given_clips(x, self.data, sample_rate=sample_rate, fps=fps, span=span)
        found: list[list[Any]] = [[] for _ in range(clips)]  # of each clip, its windows
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            for group in _groups(windows, batch_size):
                batch = stack_inputs([raw for _, raw in group], self.inputs)
                batch = finish_inputs(batch, self.inputs, self.device)
                features = self.encode(batch, layer=layer, pool=pool)
                counts = frame_counts(batch, self.inputs) if pool == "none" else None
                for row, (clip, _) in enumerate(group):
                    part = row_of(features, row, layers=isinstance(layer, list))
                    found[clip].append(part if counts is None else cut(part, counts[row]))
        joined = [join(parts, pool) for parts in found]
        if not all(x.isfinite().all() for item in joined for x in tensors_of(item)):
            raise UserError(
                f"the features of {self.name} are not finite: the model diverged, or its weights "
                "are damaged"
            )
        if pool == "none":
            return joined
        return torch.stack(joined, dim=1 if isinstance(layer, list) else 0)  # [B, D] or [L, B, D]

    def encode(
        self,
        inputs: Mapping[str, Tensor],
        *,
        layer: int | Sequence[int] | None = None,
        pool: Pool = "mean",
    ) -> Any:
        """Features of prepared windows; gradients flow.

        Args:
            inputs: each of `inputs` as a data loader gives it: [B, 1, T, F] or [B, 3, T, H, W]; of
                clips that keep their own length [B, 1, T, H, W] or [B, T, K], with `frames`, the
                indices of the real frames in [B * T] (without, all are real).
            layer, pool: as of `forward`; "mean" is over the real frames.

        Returns:
            [B, D]; with pool="none" [B, N, D] without prefix tokens (for an encoder of both, one
            for each tower's input), zeros in padding; with several layers a leading axis [L].

        Raises:
            UserError: an input is missing, or there is no such layer or no CLS token.
        """
        if pool not in POOLS:
            raise UserError(f"pool={pool!r} is none of {', '.join(POOLS)}")
        layer = _asked(layer)
        if not self.any_length:
            self._check(inputs)
        if not isinstance(layer, list):
            return self._pooled(self._run(inputs, layer), pool, inputs)
        chosen = [self._pooled(tokens, pool, inputs) for tokens in self._layers(inputs, layer)]
        if isinstance(chosen[0], dict):
            return {name: torch.stack([item[name] for item in chosen]) for name in chosen[0]}
        return torch.stack(chosen)  # [L, B, D] or [L, B, N, D]

    def _check(self, inputs: Mapping[str, Tensor]) -> None:
        """Raises UserError for inputs that are missing, of another shape, or no numbers."""
        for name, recipe in self.inputs.items():
            x = inputs.get(name) if isinstance(inputs, Mapping) else None
            if not isinstance(x, Tensor):
                raise UserError(
                    f"the encoder {self.name} reads {name!r}: give {{{name!r}: tensor}}"
                )
            fits = x.ndim == 1 + len(recipe.shape) and all(
                a == b or isinstance(b, str) for a, b in zip(x.shape[1:], recipe.shape, strict=True)
            )
            if not fits or 0 in x.shape:
                wanted = ", ".join(map(str, recipe.shape))
                raise UserError(
                    f"the encoder {self.name} reads {name!r} of the shape [B, {wanted}]; found "
                    f"{list(x.shape)}"
                )
            if not x.is_floating_point():
                raise UserError(f"{name!r} must be floating-point, found {x.dtype}")
        if len({len(inputs[name]) for name in self.inputs}) > 1:
            raise UserError(f"as many windows of each input are needed: {', '.join(self.inputs)}")

    def _run(self, inputs: Mapping[str, Tensor], layer: int | None) -> dict[str, Tensor]:
        """Tokens of each tower, prefix tokens included; with "pooled" where a tower says so."""
        if layer is not None:
            return self._layers(inputs, [layer])[0]
        outputs = self._towers(inputs)
        if self.fusion is not None:
            return self._fuse(outputs, inputs)
        return {name: out[TOKENS] for name, out in outputs.items()}

    def _towers(self, inputs: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        found = {}
        for name, module in self.towers.items():
            role = self._roles[name]
            ports = {port: inputs[read].to(self.dtype) for port, read in role.ports.items()}
            out = module(**ports, **_given(role.extra, inputs))
            found[name] = out if isinstance(out, dict) else {TOKENS: out}
        return found

    def _fuse(
        self, outputs: Mapping[str, Mapping[str, Tensor]], inputs: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Fused tokens of each tower: the fusion's outputs have the names of its ports."""
        assert self.fusion is not None and self._fusion_role is not None
        ports, extra = self._fusion_role.ports, self._fusion_role.extra
        read = {port: outputs[name][out] for port, (name, out) in ports.items()}
        fused = self.fusion(**read, **_given(extra, inputs))
        return {name: fused[port] for port, (name, _) in ports.items()}

    def _layers(
        self, inputs: Mapping[str, Tensor], layers: Sequence[int]
    ) -> list[dict[str, Tensor]]:
        """Tokens of each tower at each of `layers`; negative ones count from its own last."""
        for layer in layers:
            if not -self.depth - 1 <= layer <= self.depth:
                raise UserError(
                    f"layer={layer}: {self.name} has the layers 0 (embedded patches) to "
                    f"{self.depth}"
                )
        with caught_layers(self._deep()) as caught:
            outputs = self._towers(inputs)
            if self.fusion is not None:
                self._fuse(outputs, inputs)
        if self.fusion is None:
            return [
                {name: tokens[k] for name, tokens in zip(self.towers, caught, strict=True)}
                for k in layers
            ]
        assert self._fusion_role is not None
        ports = self._fusion_role.ports.values()
        lengths = [outputs[name][out].shape[1] for name, out in ports]
        return [
            {name: part for (name, _), part in zip(ports, x.split(lengths, 1), strict=True)}
            for x in (caught[0][k] for k in layers)
        ]

    def _deep(self) -> list[nn.Module]:
        return list(self.towers.values()) if self.fusion is None else [self.fusion]

    def _pooled(
        self, tokens: Mapping[str, Tensor], pool: Pool, inputs: Mapping[str, Tensor]
    ) -> Any:
        frames = inputs.get(REAL) if self.data.lengths is not None else None
        parts: dict[str, Tensor] = {}
        for name, x in tokens.items():
            prefix = prefix_tokens(self.towers[name])
            if pool == "cls" and prefix == 0:
                raise UserError(f"pool='cls': {name} has no CLS token; use 'mean'")
            patches = x[:, prefix:]  # [B, N, D]
            if pool == "mean":
                parts[name] = mean_frames(patches, frames)
            else:
                parts[name] = x[:, 0] if pool == "cls" else patches
        if pool == "none" and len(parts) > 1:
            return {self._roles[name].input: x for name, x in parts.items()}
        return torch.cat(list(parts.values()), dim=-1)  # [B, D]


def _given(extra: Mapping[str, str], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Optional ports whose input is there."""
    return {port: inputs[read] for port, read in extra.items() if read in inputs}


def _asked(layer: Any) -> int | list[int] | None:
    """Raises UserError for what names no layers."""
    if layer is None:
        return None
    try:
        if isinstance(layer, (str, bool)):
            raise TypeError
        if not hasattr(layer, "__iter__") or getattr(layer, "ndim", 1) == 0:
            return operator.index(layer)
        layers = [operator.index(k) for k in layer]
    except TypeError:
        raise UserError(f"layer={layer!r:.60} is not a whole number or a list of them") from None
    if not layers:
        raise UserError("layer=[] names no layer")
    return layers


def _groups(windows: Iterator[Any], size: int) -> Iterator[list[Any]]:
    group = []
    for window in windows:
        group.append(window)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group

"""Features of clips from encoders: each clip is read once for all of them.

Letters: B batch of windows, R clips asked for, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from avssl.data.config import DataConfig
from avssl.data.dataset import ClipDataset
from avssl.data.loader import make_eval_loader
from avssl.data.manifest import Clip, Manifest
from avssl.data.scan import ProgressLine
from avssl.data.usable import Check
from avssl.encoders.encoder import Encoder
from avssl.encoders.windows import Span, window_rows
from avssl.errors import UserError
from avssl.eval.features import Features


@dataclass(frozen=True)
class Encoded:
    """Features by model, and the clips that have none.

    left_out: (row, reason), for want of a stream. unreadable: (row, reason).
    """

    features: dict[str, Features]
    left_out: list[tuple[int, str]]
    unreadable: list[tuple[int, str]]


def encode_clips(
    models: Mapping[str, Mapping[str, Encoder]],
    manifest: Manifest,
    data: DataConfig,
    *,
    rows: Sequence[int],
    labels: Tensor,
    layer: int | None = None,
    pool: Literal["mean", "cls"] = "mean",
    span: Span = "middle",
) -> Encoded:
    """Encode clips without augmentation; a clip that cannot be read in all its windows is named.

    Args:
        models: encoders by name, by model; all read inputs that `data` makes.
        rows: of the manifest. labels: int64 [R], for all rows of the manifest.
        layer, pool: as of `Encoder.encode`.
        span: the middle window of a clip, as the probes of a run use, or the mean over windows
            that cover all of it.

    Raises:
        UserError: no clip can be used, or features are not finite.
    """
    check = Check(data)
    windows: list[Clip] = []
    owner: list[int] = []  # position in `served` of each window
    served: list[int] = []
    left_out = []
    for row in rows:
        clip = manifest.clips[row]
        reason = check.reason(clip)
        if reason:
            left_out.append((row, reason))
            continue
        parts = window_rows(clip, data, span)
        windows += parts
        owner += [len(served)] * len(parts)
        served.append(row)
    if not served:
        row, reason = left_out[0]
        raise UserError(
            f"none of the {len(left_out)} clips in {manifest.root} can be used; the first, "
            f"{manifest.clips[row].path}: {reason}"
        )
    dataset = ClipDataset(Manifest(manifest.root, windows), data, split=None, replace=False)
    device = next(iter(next(iter(models.values())).values())).device
    sums: dict[tuple[str, str], Tensor] = {}
    counts = torch.zeros(len(served))  # windows read of each clip
    failures: dict[str, str] = {}
    progress, done = ProgressLine("encoding"), 0
    with torch.inference_mode():
        for batch in make_eval_loader(dataset, data, device=device):
            failures.update(batch["failures"])
            place = torch.tensor(owner)[batch["clip"].cpu()]  # [B]
            done += len(place)
            if not len(place):
                continue
            counts.index_add_(0, place, torch.ones(len(place)))
            for model, encoders in models.items():
                for name, encoder in encoders.items():
                    x = encoder.encode(batch, layer=layer, pool=pool).float().cpu()  # [B, D]
                    total = sums.setdefault((model, name), torch.zeros(len(served), x.shape[1]))
                    total.index_add_(0, place, x)
            progress(done, len(windows), len(failures))
    read = counts == torch.tensor(owner).bincount()  # [clips]
    unreadable = [
        (row, failures.get(manifest.clips[row].path, "cannot be read"))
        for row, good in zip(served, read.tolist(), strict=True)
        if not good
    ]
    if not read.any():
        row, reason = unreadable[0]
        raise UserError(
            f"none of the {len(served)} clips in {manifest.root} could be read; the first, "
            f"{manifest.clips[row].path}: {reason}"
        )
    clips = torch.tensor(served)[read]
    features = {}
    for model, encoders in models.items():
        vectors = {name: (sums[model, name] / counts.unsqueeze(1))[read] for name in encoders}
        _check_finite(vectors, model)
        features[model] = Features(vectors, labels[clips], clips)
    return Encoded(features, left_out, unreadable)


def _check_finite(vectors: Mapping[str, Tensor], model: str) -> None:
    for name, x in vectors.items():
        bad = int((~x.isfinite().all(1)).sum())
        if bad:
            raise UserError(
                f"the features of {model} {name} are not finite in {bad} of {len(x)} clips: the "
                "model diverged, or its weights are damaged"
            )

"""Features of clips from encoders: each clip is read once for all of them.

Letters: B batch of windows, R clips asked for, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from avssl.data.config import DataConfig, FramesConfig
from avssl.data.dataset import ClipDataset
from avssl.data.loader import make_eval_loader
from avssl.data.manifest import Clip, Manifest
from avssl.data.scan import ProgressLine
from avssl.data.stills import READER
from avssl.data.usable import Check, extent
from avssl.data.views import Views
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
    views: Views = Views(),  # noqa: B008 (it cannot be changed)
) -> Encoded:
    """Encode clips without augmentation; a clip that cannot be read in all its windows and views is
    named.

    Args:
        models: encoders by name, by model; all read inputs that `data` makes.
        rows: of the manifest. labels: int64 [R], for all rows of the manifest.
        layer, pool: as of `Encoder.encode`.
        span: the middle window of a clip, as the probes of a run use, or the mean over windows
            that cover all of it.
        views: the mean over crops of each window; and over several places in time, which stand in
            for `span`.

    Raises:
        UserError: no clip can be used, views would repeat each other in all of them, or features
            are not finite.
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
        parts = [clip] if views.clips > 1 else window_rows(clip, data, span)
        windows += parts
        owner += [len(served)] * len(parts)
        served.append(row)
    if not served:
        row, reason = left_out[0]
        raise UserError(
            f"none of the {len(left_out)} clips in {manifest.root} can be used; the first, "
            f"{manifest.clips[row].path}: {reason}"
        )
    _check_views(views, [manifest.clips[row] for row in served], data)
    dataset = ClipDataset(
        Manifest(manifest.root, windows), data, split=None, replace=False, views=views
    )
    device = next(iter(next(iter(models.values())).values())).device
    sums: dict[tuple[str, str], Tensor] = {}
    counts = torch.zeros(len(served))  # views read of each clip
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
            progress(done, len(dataset), len(failures))
    read = counts == torch.tensor(owner).bincount() * len(views)  # [clips]
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


def _check_views(views: Views, clips: Sequence[Clip], data: DataConfig) -> None:
    """Raises UserError for views that are the same again in each of the clips."""
    if len(views) == 1:
        return
    if data.lengths is not None:
        raise UserError(
            "--clips and --crops are for encoders of a fixed window, and clips keep their own "
            "length here: leave them out"
        )
    if views.clips > 1 and not any(_has_places(clip, data) for clip in clips):
        raise UserError(
            f"--clips {views.clips} asks for several places in time, and each of the {len(clips)} "
            f"clips has one: it is a still, or no longer than the window of {data.window:g} s; "
            "leave --clips out"
        )
    if views.crops > 1 and not data.needs_video:
        raise UserError(
            f"--crops {views.crops} is for pictures, and sound alone is read: leave it out; "
            "--clips is for sound, too"
        )
    if views.crops > 1 and all(clip.width == clip.height for clip in clips):
        raise UserError(
            f"--crops {views.crops} lie along the longer side of a picture, and those of all "
            f"{len(clips)} clips are square: leave it out"
        )


def _has_places(clip: Clip, data: DataConfig) -> bool:
    """Whether another place in time of a clip may show something else."""
    if clip.reader == READER:
        return False
    frames = [item for item in data.inputs.values() if isinstance(item, FramesConfig)]
    if any(item.whole_clip or item.seconds is not None for item in frames):
        return True
    return extent(clip, video=data.needs_video)[1] > data.window


def _check_finite(vectors: Mapping[str, Tensor], model: str) -> None:
    for name, x in vectors.items():
        bad = int((~x.isfinite().all(1)).sum())
        if bad:
            raise UserError(
                f"the features of {model} {name} are not finite in {bad} of {len(x)} clips: the "
                "model diverged, or its weights are damaged"
            )

"""Evaluating a trained model: what `tools/evaluate.py` does for frozen encoders."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

import avssl
from avssl.data.config import DataConfig
from avssl.data.labels import LabelFiles
from avssl.data.manifest import Manifest
from avssl.data.scan import ProgressLine
from avssl.data.views import Views
from avssl.encoders.encoder import Encoder
from avssl.encoders.load import Encoders
from avssl.errors import UserError
from avssl.eval.clips import EvalClips, open_clips
from avssl.eval.encode import Encoded, Span, encode_clips
from avssl.eval.features import Features
from avssl.eval.maps import Projection
from avssl.eval.metrics import Retrieval
from avssl.eval.place import check_model
from avssl.eval.probes import SUBSET, retrievals
from avssl.eval.score import Score, fits, score
from avssl.eval.untrained import untrained

Task = Literal["retrieval", "knn", "linear"]


@dataclass(frozen=True)
class Options:
    """What is evaluated on which clips; each field is an option of `tools/evaluate.py`.

    Raises UserError for several places in clips that are to be covered whole.
    """

    model: str
    task: Task
    data: str
    out: Path | None = None
    labels: LabelFiles | None = None
    label_column: str | None = None
    multi_label: bool = False
    split: str = "test"
    fit: str = "train"
    folds: str | None = None
    encoders: Sequence[str] = ()
    layer: int | None = None
    pool: Literal["mean", "cls"] = "mean"
    span: Span = "middle"
    clips: int = 1
    crops: Literal[1, 3] = 1
    stage: str | None = None
    layout: str | None = None
    allow: Sequence[str] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    untrained: bool = False
    picture: Projection | None = "tsne"
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = 1
    batch: int = 64

    def __post_init__(self) -> None:
        if self.span == "all" and self.clips > 1:
            raise UserError(
                "--span all takes the mean over windows that cover a clip, and --clips "
                f"{self.clips} that over so many places of it: give one of them"
            )


@dataclass(frozen=True)
class ClipCounts:
    """Clips of one side. (name, reason) pairs say why clips do not count."""

    used: int
    left_out: list[tuple[str, str]]
    unreadable: list[tuple[str, str]]


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation found.

    Attributes:
        model: what the encoders say of themselves. fingerprints: of each encoder.
        counts: "fitted" and "scored", or "clips" where all are both.
        scores: model ("trained", "untrained") -> encoder or "both" -> figures.
        retrieval: model -> number of clips -> direction -> figures.
        features: of the trained model, for pictures.
    """

    options: Options
    model: Mapping[str, object]
    fingerprints: dict[str, str]
    clips: EvalClips
    counts: dict[str, ClipCounts]
    scores: dict[str, dict[str, Score]]
    retrieval: dict[str, dict[int, dict[str, Retrieval]]]
    features: Features


def evaluate(options: Options) -> Evaluated:
    """Read the clips once, for every encoder, and compute the figures of the task.

    Raises UserError for whatever the user can mend.
    """
    loaded = avssl.load(
        options.model,
        stage=options.stage,
        layout=options.layout,
        allow=options.allow,
        sizes=options.sizes,
        device=_device(options.device),
    )
    names = list(options.encoders or loaded.names)
    for name in names:
        loaded[name]  # an unknown name ends here, before any clip is read
    if options.out is not None:
        check_model(options.out, {name: loaded[name].fingerprint for name in names})
    changes = {
        "workers": options.workers,
        "batch": options.batch,
        "label": options.label_column,
    }
    data = loaded.data(options.data, names, **changes)
    retrieving = options.task == "retrieval"
    clips = open_clips(
        data,
        labels=options.labels,
        multi_label=options.multi_label,
        fit=None if retrieving else options.fit,
        score=options.split,
        folds=options.folds,
    )
    names = _with_streams(names, loaded, clips)
    data = loaded.data(options.data, names, **changes)
    models = {"trained": {name: loaded[name] for name in names}}
    if options.untrained:
        fresh = untrained(loaded, seed=options.seed)
        models["untrained"] = {name: fresh[name] for name in names}
    towers = [name for name in names if len(models["trained"][name].inputs) == 1]
    if retrieving and len(towers) < 2:
        raise UserError(
            f"retrieval needs a sound and a picture encoder, found {', '.join(names)}: the clips "
            "need both streams, and --encoders must name both"
        )
    encoded = _encode(models, clips, data, options)
    scores: dict[str, dict[str, Score]] = {}
    found: dict[str, dict[int, dict[str, Retrieval]]] = {}
    for model, features in encoded.features.items():
        if retrieving:
            pair = dataclasses.replace(features, vectors={n: features[n] for n in towers})
            found[model] = _retrieval(pair)
        else:
            scores[model] = _scores(features, names, towers, clips, options, model)
    return Evaluated(
        options,
        loaded.description,
        {name: encoder.fingerprint for name, encoder in models["trained"].items()},
        clips,
        _counts(clips, encoded),
        scores,
        found,
        encoded.features["trained"],
    )


def _device(name: str) -> torch.device:
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise UserError("--device cuda: torch sees no CUDA device; use auto or cpu")
    return torch.device("cuda" if there and name != "cpu" else "cpu")


def _with_streams(names: list[str], loaded: Encoders, clips: EvalClips) -> list[str]:
    """The encoders whose streams some clip has."""
    rows = [clips.manifest.clips[row] for row in clips.rows]
    has = {"sound": any(c.has_audio for c in rows), "picture": any(c.has_video for c in rows)}
    kept = []
    for name in names:
        data = loaded.data("", [name])
        needed = {"sound": data.needs_audio, "picture": data.needs_video}
        lacking = [stream for stream, wanted in needed.items() if wanted and not has[stream]]
        if lacking:
            print(f"{name} is left out: no clip has a {lacking[0]}", flush=True)
        else:
            kept.append(name)
    if not kept:
        first = next((c for c in rows if c.reason), rows[0])
        raise UserError(
            f"no clip in {clips.manifest.root} has the streams that {', '.join(names)} read; "
            f"{first.path}: {first.reason or 'no such stream'}"
        )
    return kept


def _encode(
    models: Mapping[str, Mapping[str, Encoder]],
    clips: EvalClips,
    data: DataConfig,
    options: Options,
) -> Encoded:
    return encode_clips(
        models,
        clips.manifest,
        data,
        rows=clips.rows,
        labels=clips.labels,
        layer=options.layer,
        pool=options.pool,
        span=options.span,
        views=Views(options.clips, options.crops),
    )


def _retrieval(features: Features) -> dict[int, dict[str, Retrieval]]:
    """Figures among a fixed draw and among all clips, by number of clips."""
    if len(features) < 2:
        raise UserError(
            f"retrieval among {len(features)} clip means nothing: choose more with --split, such "
            "as --split all"
        )
    found = {}
    for part in (features.draw(SUBSET), features):
        figures = retrievals(part)
        if not figures:
            widths = ", ".join(f"{n} {x.shape[1]}" for n, x in features.vectors.items())
            raise UserError(f"retrieval needs two encoders of equal width, found {widths}")
        found[len(part)] = figures
    return found


def _scores(
    features: Features,
    names: Sequence[str],
    towers: Sequence[str],
    clips: EvalClips,
    options: Options,
    model: str,
) -> dict[str, Score]:
    """Figures of each encoder, and of the towers side by side ("both")."""
    subjects = {name: [name] for name in towers}
    if len(towers) == 2:
        subjects["both"] = list(towers)
    subjects |= {name: [name] for name in names if name not in towers}
    assert options.task != "retrieval"
    line = ProgressLine(f"{options.task} {model}", unit="fits")
    total = fits(clips, fit=options.task, multi_label=options.multi_label) * len(subjects)
    steps = itertools.count(1)
    return {
        subject: score(
            features,
            vectors,
            clips,
            fit=options.task,
            multi_label=options.multi_label,
            progress=lambda: line(next(steps), total),
        )
        for subject, vectors in subjects.items()
    }


def _counts(clips: EvalClips, encoded: Encoded) -> dict[str, ClipCounts]:
    used = set(next(iter(encoded.features.values())).clips.tolist())

    def side(rows: set[int]) -> ClipCounts:
        return ClipCounts(
            len(rows & used),
            _named(clips.manifest, rows, encoded.left_out),
            _named(clips.manifest, rows, encoded.unreadable),
        )

    fitted = {row for part in clips.parts for row in part.fit}
    scored = {row for part in clips.parts for row in part.score}
    if fitted == scored:
        return {"fitted and scored in turn": side(scored)}
    return ({"fitted": side(fitted)} if fitted else {}) | {"scored": side(scored)}


def _named(
    manifest: Manifest, rows: set[int], reasons: Sequence[tuple[int, str]]
) -> list[tuple[str, str]]:
    return [(manifest.clips[row].path, reason) for row, reason in reasons if row in rows]

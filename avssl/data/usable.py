"""Which clips can serve: streams, length and transcript held against what the inputs read."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from avssl.data.config import DataConfig, FramesConfig
from avssl.data.length_config import LipsConfig, TextConfig
from avssl.data.lengths import frame_count, longest_frames
from avssl.data.manifest import Clip, Manifest

if TYPE_CHECKING:
    from avssl.speech.units import Units


# pixels: a square picture between these sizes is a mouth crop (LRS2's faces have 160)
SMALLEST_CROP, LARGEST_CROP = 32, 128


def is_crop(clip: Clip) -> bool:
    """Whether the pictures of a clip are mouth crops, by their size."""
    return clip.width == clip.height and SMALLEST_CROP <= (clip.width or 0) <= LARGEST_CROP


def extent(clip: Clip, *, video: bool) -> tuple[float, float]:
    """First second and length of what a clip offers; of its sound alone if no picture is read."""
    end = clip.duration or 0.0
    if clip.has_video and not video and clip.has_audio:
        end = max(0.0, clip.sound_offset + (clip.sound_duration or 0.0))
    if clip.end is not None:
        end = min(end, clip.end)
    start = clip.start or 0.0
    return start, end - start


def unusable(clip: Clip, *, audio: bool, video: bool) -> str:
    """Why a clip cannot serve inputs made from these streams; "" if it can."""
    if not clip.scanned:
        return "not scanned"
    if video and not clip.has_video:
        return clip.reason or "has no picture"
    if audio and not clip.has_audio:
        return clip.reason or "has no sound"
    if not extent(clip, video=video)[1] > 0:
        return f"starts at {clip.start} s, after its end"
    return ""


class Misfit(Exception):
    """A clip cannot serve; the text is the reason."""


class Check:
    """Whether clips can serve the inputs of a `data` section.

    Raises UserError when the units of the transcripts cannot be opened.
    """

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        recipes = config.inputs.values()
        self.lips = any(isinstance(item, LipsConfig) for item in recipes)
        text = [item for item in recipes if isinstance(item, TextConfig)]
        self.units = open_units(text[0]) if text else None

    def __call__(self, clip: Clip) -> tuple[int, list[int]]:
        """Frames that are read of a clip and units of its transcript; 0 and none without
        `data.lengths`.

        Raises:
            Misfit: it cannot serve.
        """
        video, lengths = self.config.needs_video, self.config.lengths
        reason = unusable(clip, audio=self.config.needs_audio, video=video)
        if reason:
            raise Misfit(reason)
        if lengths is None:
            return 0, []
        if self.lips and not is_crop(clip):
            raise Misfit(
                f"its picture of {clip.width} x {clip.height} is no mouth crop (square, "
                f"{SMALLEST_CROP} to {LARGEST_CROP} pixels): make crops with tools/prepare_lips.py"
            )
        seconds = extent(clip, video=video)[1]
        frames, most = frame_count(seconds, self.config), longest_frames(self.config)
        if frames < max(1, frame_count(lengths.shortest, self.config)):
            raise Misfit(f"is {seconds:.2f} s long, data.lengths.shortest is {lengths.shortest:g}")
        if self.units is None:
            return min(frames, most), []
        if frames > most:
            raise Misfit(
                f"is {seconds:.2f} s long and cannot be cut, for its transcript is read: "
                f"data.lengths.longest is {lengths.longest:g}"
            )
        return frames, transcript(clip.text, self.units, frames)

    def reason(self, clip: Clip) -> str:
        """Why a clip cannot serve; "" if it can."""
        try:
            self(clip)
        except Misfit as reason:
            return str(reason)
        return ""


def open_units(recipe: TextConfig) -> Units:
    """The units that a recipe names.

    Raises UserError when it names none.
    """
    from avssl.speech.units import Units

    if recipe.model is not None:
        return Units.sentencepiece(recipe.model)
    return Units.characters(recipe.alphabet)


def transcript(text: str, units: Units, frames: int) -> list[int]:
    """The units of a transcript that CTC can align with so many frames.

    Raises:
        Misfit: it is empty, holds what is no unit, or is too long.
    """
    if not text.strip():
        raise Misfit("its transcript is empty")
    try:
        found = units.encode(text)
    except ValueError as error:
        raise Misfit(f"its transcript does not fit the units: {error}") from None
    needed = alignment_frames(found)
    if needed > frames:
        raise Misfit(
            f"its transcript of {len(found)} units needs {needed} frames and it has {frames}"
        )
    return found


def alignment_frames(units: Sequence[int]) -> int:
    """Frames that CTC needs at least: one for each unit, and a blank between two that are equal."""
    return len(units) + sum(a == b for a, b in itertools.pairwise(units))


def in_share(path: str, share: float) -> bool:
    """Whether a clip is in the share of the train split that is used, by its path alone."""
    if share == 1:
        return True
    # other digits than those that `hash_split` takes
    drawn = int(hashlib.sha256(os.fsencode(path)).hexdigest()[8:16], 16)
    return drawn < share * 16**8


def standing_still(config: DataConfig, clips: Sequence[Clip]) -> list[str]:
    """A sentence for each input that reads several pictures of train clips that have only one."""
    stills = sum(clip.frames == 1 for clip in clips)
    return [
        f"{stills} of {len(clips)} train clips are single pictures; '{name}' reads {recipe.frames} "
        "frames of each, which are all the same"
        for name, recipe in config.inputs.items()
        if stills and isinstance(recipe, FramesConfig) and recipe.frames > 1
    ]


def by_reason(left_out: Sequence[tuple[str, str]], *, shown: int = 5) -> str:
    """Clips that were left out, counted by reason, the most frequent first: "2 has no sound (a.mp4
    and others)". Reasons that differ in their numbers alone count as one, told as of the first."""
    alike: dict[str, list[tuple[str, str]]] = {}
    for path, reason in left_out:
        alike.setdefault(re.sub(r"\d+(\.\d+)?", "0", reason), []).append((path, reason))
    most = sorted(alike.values(), key=len, reverse=True)
    parts = [
        f"{len(clips)} {clips[0][1]} ({clips[0][0]}{' and others' if len(clips) > 1 else ''})"
        for clips in most[:shown]
    ]
    rest = sum(map(len, most[shown:]))
    return "; ".join([*parts, f"{rest} for other reasons"] if rest else parts)


def nothing_usable(manifest: Manifest, split: str | None, left_out: list[tuple[str, str]]) -> str:
    """What to say of a split none of whose clips can serve."""
    if left_out:
        path, reason = left_out[0]
        of = f" of the split '{split}'" if split else ""
        return (
            f"none of the {len(left_out)} clips{of} in {manifest.root} can be used; the first, "
            f"{path}: {reason}"
        )
    counts: dict[str, int] = {}
    for clip in manifest.clips:
        counts[clip.split or "(none)"] = counts.get(clip.split or "(none)", 0) + 1
    known = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    if manifest.split_by_path:
        return (
            f"{manifest.root} has no clip in the split '{split}' (it has {known}), for no split is "
            "given and so the paths decide: add more clips, or write a manifest.csv with a column "
            "'split'"
        )
    return (
        f"the manifest in {manifest.root} has no clip in the split '{split}' (it has {known}): "
        "fill its column 'split', or leave the whole column empty for a split by path"
    )

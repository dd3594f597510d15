"""How transformers prepares a model's inputs, from the preprocessor_config.json beside its file:
honoured where avssl's preparation can, else refused or noted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from avssl.errors import UserError
from avssl.weights.conversion import Conversion


def fbank(c: Conversion, bins: int, frames: int) -> dict[str, Any]:
    """Preparation of sound, as preprocessor_config.json beside the file has it."""
    known = c.preprocessor
    found: dict[str, Any] = {"bins": bins, "frames": frames}
    for name, size in (("num_mel_bins", bins), ("max_length", frames)):
        if known.get(name, size) != size:
            raise UserError(
                f"preprocessor_config.json beside {c.path} has {name}: {known[name]}, but its "
                f"model reads {size}: one of the two belongs to another model"
            )
    if "sampling_rate" in known:
        found["sample_rate"] = known["sampling_rate"]
    if known.get("do_normalize", True) is False:
        return {**found, "mean": 0.0, "std": 0.5}  # divided by 2 std
    for name in ("mean", "std"):
        if name in known:
            found[name] = float(_numbers(c, name, [known[name]])[0])
    return found


def frames_of(c: Conversion, image: int) -> dict[str, Any]:
    """Preparation of pictures, as preprocessor_config.json beside the file has it.

    Values are x * rescale_factor there and x / 255 here, so mean and deviation are divided by what
    is between the two.
    """
    known = c.preprocessor
    found: dict[str, Any] = {"size": image}
    if not known:
        return found
    _same_size(c, image)
    factor = known.get("rescale_factor", 1 / 255) if known.get("do_rescale", True) else 1.0
    scale = 255 * float(_numbers(c, "rescale_factor", [factor])[0])
    scale = 1.0 if abs(scale - 1) < 1e-6 else scale
    if scale <= 0:
        raise UserError(f"preprocessor_config.json beside {c.path}: rescale_factor is {factor}")
    if known.get("do_normalize", True) is False:
        known = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    elif scale != 1.0 and not {"image_mean", "image_std"} <= set(known):
        raise UserError(
            f"preprocessor_config.json beside {c.path} scales pictures by {factor} and does not "
            "say image_mean and image_std: add them"
        )
    for ours, name in (("mean", "image_mean"), ("std", "image_std")):
        if name in known:
            found[ours] = [value / scale for value in _numbers(c, name, known[name])]
    return found


def _same_size(c: Conversion, image: int) -> None:
    """Pictures must come out as large as the model reads them; how they get there is noted."""
    known = c.preprocessor
    sides = _sides(known.get("size"))
    cropped = bool(known.get("do_center_crop", False))
    out = _sides(known.get("crop_size")) or sides if cropped else sides
    if (known.get("do_resize", True) is False and not cropped) or not out:
        return  # as large as they come
    if set(out) != {image}:
        raise UserError(
            f"preprocessor_config.json beside {c.path} makes pictures of "
            f"{' x '.join(map(str, out))} pixels, but its model reads {image}: one of the two "
            "belongs to another model"
        )
    squashed = not cropped and "shortest_edge" not in _mapping(known.get("size"))
    if squashed or sides != out:
        how = "squashes pictures" if squashed else f"resizes to {' x '.join(map(str, sides))}"
        c.notes.append(
            f"preparation differs: preprocessor_config.json {how}; here the shorter side goes to "
            f"{image} pixels, bilinearly, and the centre is cropped"
        )


def _sides(size: Any) -> list[int]:
    """224, {height, width} or {shortest_edge}, of old and new files."""
    values = list(_mapping(size).values()) or [size]
    return sorted({value for value in values if isinstance(value, int) and value > 0})


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _numbers(c: Conversion, name: str, values: Any) -> list[float]:
    good = isinstance(values, list) and all(
        isinstance(value, (int, float)) and not isinstance(value, bool) for value in values
    )
    if not good:
        raise UserError(f"preprocessor_config.json beside {c.path}: {name} is {values!r}")
    return [float(value) for value in values]

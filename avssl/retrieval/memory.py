"""Sizes of memory: how they are written, and the refusal of what needs more than is allowed."""

import argparse
import re

from avssl.errors import UserError

MEMORY = "4GB"  # allowed where nothing is said
_UNITS = {"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


def memory_size(text: str) -> int:
    """Bytes of a size such as "500MB" or "4GB"; a type for `argparse`."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]B)\s*", text, re.IGNORECASE)
    if not found or not float(found[1]) > 0:
        raise argparse.ArgumentTypeError(f"must be a size such as 500MB or 4GB, found '{text}'")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def allowed_memory(size: str | int | None) -> int | None:
    """Bytes of what a function was given: text as above, bytes, or None for any amount.

    Raises UserError when the text is no size.
    """
    try:
        return memory_size(size) if isinstance(size, str) else size
    except argparse.ArgumentTypeError as error:
        raise UserError(f"memory {error}") from None


def spoken(size: float) -> str:
    """A size to read: 1.5 GB."""
    unit = next((u for u in ("TB", "GB", "MB") if size >= _UNITS[u]), "KB")
    return f"{size / _UNITS[unit]:.1f} {unit}"


def allow(needed: float, allowed: float, *, what: str, advice: str) -> None:
    """Raises UserError when `what` needs more bytes than are allowed."""
    if needed > allowed:
        raise UserError(
            f"{what} needs {spoken(needed)} of memory, allowed are {spoken(allowed)}: {advice}"
        )

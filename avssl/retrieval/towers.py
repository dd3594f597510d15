"""Which encoder of a model serves a modality: "audio", the sound of clips, or "video", their
picture.

Models of single pictures name theirs otherwise, such as `image`; it serves as "video".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from avssl.errors import UserError

if TYPE_CHECKING:
    from avssl.encoders.load import Encoders

OTHER = {"audio": "video", "video": "audio"}
WORDS = {"audio": "sound", "video": "picture"}


def towers_of(encoders: Encoders) -> dict[str, str]:
    """Modality -> name of the encoder that serves it: the one of that name, or else the only one
    that reads no other stream. Modalities that none serves are left out."""
    found: dict[str, str] = {}
    for modality in OTHER:
        alone = [name for name in encoders.names if _reads(encoders, name) == {modality}]
        if modality in encoders.names:
            found[modality] = modality
        elif len(alone) == 1:
            found[modality] = alone[0]
    return found


def tower_of(encoders: Encoders, modality: str) -> str:
    """Name of the encoder that serves a modality.

    Raises:
        UserError: none does.
    """
    towers = towers_of(encoders)
    if modality not in towers:
        raise UserError(
            f"{encoders.name} has no encoder of {WORDS[modality]} to search by: it has "
            f"{', '.join(encoders.names)}"
        )
    return towers[modality]


def _reads(encoders: Encoders, name: str) -> set[str]:
    data = encoders.data("", [name])
    return {m for m, read in (("audio", data.needs_audio), ("video", data.needs_video)) if read}

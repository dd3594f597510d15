"""Export: load, write, compare what was written with the encoder, and only then show the folder."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

import avssl
from avssl.errors import UserError
from avssl.export import FORMATS
from avssl.export.card import CARDS, card
from avssl.export.folder import already_there, remove_stale, whole_folder
from avssl.export.source import open_encoder


def export(
    path: str | os.PathLike[str],
    *,
    module: str,
    kind: str,
    out: str | os.PathLike[str],
    stage: str | None = None,
    layout: str | None = None,
    allow: Sequence[str] = (),
    sizes: Mapping[str, Any] | None = None,
) -> float | None:
    """Write an encoder as a folder for another program.

    Args:
        path: a run folder, an exported folder or a foreign checkpoint.
        module: the encoder, such as "audio", "video", "audio_video".
        kind: one of FORMATS.
        out: the folder, which must not be there yet, or hold this very export.
        stage, layout, allow, sizes: as of `avssl.load`.

    Returns:
        The largest difference between the encoder's features and those of what was written, over
        the largest feature where that is above 1; None where the export was there already.

    Raises:
        UserError: there is no such encoder or format, the format has no model for the encoder, what
            was written does not give the same features, or `out` is in the way.
    """
    if kind not in FORMATS:
        raise UserError(f"there is no format {kind!r}: choose one of {', '.join(FORMATS)}")
    out = Path(out).expanduser()
    source = open_encoder(path, module=module, stage=stage, layout=layout, allow=allow, sizes=sizes)
    record = {
        "format": kind,
        "model": source.encoders.name,
        "module": module,
        "fingerprint": source.encoder.fingerprint,
        "avssl": avssl.__version__,
    }
    remove_stale(out)
    if already_there(out, record):
        return None
    writer = importlib.import_module(f"avssl.export.{FORMATS[kind]}")
    with whole_folder(out, record) as folder:
        try:
            writer.write(source, folder)
        except SafetensorError as error:
            raise UserError(f"--out {out} cannot be written: {error}") from None
        worst: float = writer.check(source, folder)
        if not worst <= writer.TOLERANCE:
            raise UserError(
                f"{module} as {kind} differs from the encoder by {worst:.2g}, more than "
                f"{writer.TOLERANCE:g}: nothing was written. Its weights may be damaged or very "
                "large"
            )
        text = card(source, kind, worst=worst, out=out)
        (folder / CARDS[kind]).write_text(text, encoding="utf-8")
    return worst

"""The folder of a fine-tuning: what it was started with, which a later call must say again."""

from __future__ import annotations

import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from avssl.data.config import DataConfig
from avssl.data.manifest import Manifest
from avssl.errors import UserError
from avssl.files import write_whole
from avssl.finetune.config import Finetune
from avssl.train.run_folder import differences

# what may differ between the call that started and the one that goes on
HARMLESS = {
    "run", "seeds", "fold", "data.cache", "data.workers", "data.prefetch", "data.time_limit",
    "data.max_bad_share", "train.save_every", "train.log_every", "train.device",
}  # fmt: skip


def fingerprint(manifest: Manifest) -> str:
    """Number and checksum of what the rows say: paths, stretches, labels, splits, own columns."""
    rows = [
        (clip.path, clip.start, clip.end, clip.label, clip.split, clip.extra)
        for clip in manifest.clips
    ]
    return f"{len(rows)} ({zlib.crc32(repr(rows).encode()):08x})"


def claim(folder: Path, config: Finetune, data: DataConfig, about: dict[str, Any]) -> None:
    """Write finetune.yaml, or make sure that the one there says the same.

    Raises:
        UserError: the folder holds something else; names what differs.
    """
    mine = {**asdict(config), "data": asdict(data), "model": about}
    mine["run"], mine["data"]["source"], mine["data"]["cache"] = ".", about["source"], None
    stored = folder / "finetune.yaml"
    if not stored.is_file():
        others = [item.name for item in folder.iterdir() if not item.name.startswith(".")]
        if others:
            raise UserError(
                f"run={folder} holds {others[0]}, but no fine-tuning: give another folder"
            )
        write_whole(stored, yaml.safe_dump(mine, sort_keys=False))
        return
    try:
        earlier = yaml.safe_load(stored.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UserError(f"{stored} is damaged: give another folder with run=...") from None
    different = list(differences(earlier, mine, harmless=HARMLESS))
    if different:
        raise UserError(
            f"run={folder} was started with other settings: {'; '.join(different[:6])}. Give "
            "another folder with run=..., or remove this one"
        )

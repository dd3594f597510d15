"""Fine-tuned models by what they read: lips (video), sound (audio) or both."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from avssl.data.config import DataConfig
from avssl.data.length_config import LipsConfig, WaveConfig
from avssl.errors import UserError
from avssl.speech.decoding import Decoding
from avssl.speech.reader import Reader

KINDS = ("video", "audio", "both")
_WHAT = {"video": "lips", "audio": "sound", "both": "lips and sound"}
_ASKED = {"video": "lips alone", "audio": "sound alone (--audio)", "both": "both (--both)"}


class Readers:
    """Loads models; at most one of each kind. One of both reads either alone, too, where there is
    none of that kind.

    Args:
        folders: run folders of tools/finetune.py.
        device: where they run.

    Raises:
        UserError: a folder holds no fine-tuned model, or two read the same.
    """

    def __init__(self, folders: Sequence[Path], *, device: str = "cpu") -> None:
        self._readers: dict[str, Reader] = {}
        self._folders: dict[str, Path] = {}
        for folder in folders:
            reader = Reader.load(folder)
            if reader.kind in self._readers:
                other = self._folders[reader.kind]
                raise UserError(f"{other} and {folder} both read {_WHAT[reader.kind]}: give one")
            self._readers[reader.kind] = on_device(reader, device)
            self._folders[reader.kind] = folder

    @property
    def kinds(self) -> list[str]:
        """What can be read."""
        return list(KINDS) if "both" in self._readers else [k for k in KINDS if k in self._readers]

    def reader(self, kind: str) -> Reader:
        """The model that reads it.

        Raises:
            UserError: none does.
        """
        return self._readers[self._found(kind)]

    def data(self, kind: str) -> DataConfig:
        """How inputs are made: those of `kind` alone."""
        data = self.reader(kind).data
        left_out = {"video": WaveConfig, "audio": LipsConfig}.get(kind)
        if left_out is None:
            return data
        inputs = {
            name: item for name, item in data.inputs.items() if not isinstance(item, left_out)
        }
        return dataclasses.replace(data, inputs=inputs)

    def folder(self, kind: str) -> Path:
        """Where its model is."""
        return self._folders[self._found(kind)]

    def _found(self, kind: str) -> str:
        for has in (kind, "both"):
            if has in self._readers:
                return has
        found = "; ".join(f"{folder} reads {_WHAT[has]}" for has, folder in self._folders.items())
        raise UserError(f"no model that was given reads {_ASKED[kind]}: {found}")


def on_device(reader: Reader, device: str) -> Reader:
    """Move a model.

    Raises:
        UserError: the device is not there.
    """
    try:
        return reader.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {device} cannot be used: {reason}") from None


def searched(settings: Decoding, *, greedy: bool, beam: int | None) -> Decoding:
    """A model's settings with what the user changes.

    Raises:
        UserError: options that do not go together, or too large a beam.
    """
    if greedy and beam is not None:
        raise UserError("--greedy has no beam: leave --beam out")
    if greedy:
        return dataclasses.replace(settings, method="greedy", lm_weight=0.0)
    if beam is not None:
        try:
            return dataclasses.replace(settings, method="beam", beam=beam)
        except ValueError as error:
            raise UserError(f"--{error}") from None
    return settings


def described(settings: Decoding) -> str:
    """Settings of a search in a few words."""
    if settings.method == "greedy":
        return "greedy"
    words = [f"beam {settings.beam}", f"CTC weight {settings.ctc_weight:g}"]
    if settings.length_bonus:
        words.append(f"length bonus {settings.length_bonus:g}")
    if settings.lm_weight:
        words.append(f"language model {settings.lm_weight:g}")
    return ", ".join(words)

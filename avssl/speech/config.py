"""The `speech` section of an experiment: what tools/finetune.py does around the training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from avssl.speech.decoding import Decoding

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class NgramConfig:
    """A language model that counts units.

    order: units it looks at, the predicted one among them.
    """

    type: Literal["ngram"]
    order: int = 6

    def __post_init__(self) -> None:
        _at_least_one(self, "order")


@dataclass(frozen=True)
class LMSize:
    """Of a transformer; the default, ours, has 0.4 M weights besides those of the units."""

    width: int = 128
    depth: int = 2
    heads: int = 4
    hidden: int = 512
    dropout: float = 0.1

    def __post_init__(self) -> None:
        _at_least_one(self, "width", "depth", "heads", "hidden")
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} is no multiple of twice the {self.heads} heads.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be from 0 to below 1, found {self.dropout}.")


@dataclass(frozen=True)
class TransformerConfig:
    """A causal transformer as language model; RAVEn's has size.width=512, depth 16, heads 8, hidden
    2048.

    epochs: passes over the texts. batch: texts of a step. lr: highest learning rate.
    """

    type: Literal["transformer"]
    size: LMSize = field(default_factory=LMSize)
    epochs: int = 20  # [choice], as what follows
    batch: int = 64
    lr: float = 1e-3

    def __post_init__(self) -> None:
        _at_least_one(self, "epochs", "batch")
        if not self.lr > 0:
            raise ValueError(f"lr must be above 0, found {self.lr}.")


@dataclass(frozen=True)
class SpeechConfig:
    """The whole section.

    Attributes:
        pieces: train so many SentencePiece units on the transcripts of the train split, which
            `data.inputs.text` then takes; null: the units it names.
        average: newest checkpoints of the last stage whose mean is the model; `train.keep` must
            keep as many.
        lm: language model that is trained on the same transcripts, for `decode.lm_weight`; null:
            none.
        splits: scored in the end.
        budget: frames of a batch while clips are read, padding included, in one process; a clip
            that has more is read alone.
        decode: how the search goes.
    """

    pieces: int | None = None
    average: int = 10
    lm: NgramConfig | TransformerConfig | None = None
    splits: list[str] = field(default_factory=lambda: ["val", "test"])
    budget: int = 3000
    decode: Decoding = field(default_factory=Decoding)

    def __post_init__(self) -> None:
        _at_least_one(self, "average", "budget")
        if self.pieces is not None:
            _at_least_one(self, "pieces")
        if not self.splits or not set(self.splits) <= set(SPLITS):
            raise ValueError(f"splits must be some of {', '.join(SPLITS)}, found {self.splits}.")
        if self.decode.lm_weight and self.lm is None:
            raise ValueError(
                f"decode.lm_weight is {self.decode.lm_weight:g}, but there is no language model: "
                "give lm, such as lm: {type: ngram}."
            )
        if self.lm is not None and not self.decode.lm_weight:
            raise ValueError(
                "lm names a language model, but decode.lm_weight is 0 and it would not be used: "
                "give a weight, such as decode.lm_weight=0.3, or leave lm out."
            )


def _at_least_one(item: object, *names: str) -> None:
    for name in names:
        if getattr(item, name) < 1:
            raise ValueError(f"{name} must be at least 1, found {getattr(item, name)}.")

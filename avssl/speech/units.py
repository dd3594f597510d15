"""Units of text: what a recogniser writes, characters or SentencePiece pieces, as whole numbers.

Unit 0 is the blank of CTC; the last one begins and ends a transcript (one for both); those between
stand for text. Text is brought to one form before it is cut into units: Unicode NFKC, single
spaces, and the case of the inventory where that has one case only; punctuation that is none of the
characters becomes space.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from avssl.errors import UserError
from avssl.optional import need

BLANK = 0


class UnitError(ValueError):
    """A text that has no units; the sentence says why."""


class Units:
    """An inventory of units: ``Units.characters("abc ")`` or ``Units.sentencepiece("x.model")``.

    Attributes:
        blank: unit of CTC that stands for no text, 0.
        end: unit before and after a transcript, the last one.
        model: the SentencePiece model, as the bytes of its file; None for characters.

    Example::

        units = Units.characters("abcdefghijklmnopqrstuvwxyz' ")
        units.encode("Bin  blue")                # [2, 9, 14, 28, 2, 12, 21, 5]
        units.decode([2, 9, 14])                 # "bin"
    """

    blank = BLANK

    def __init__(self, symbols: Sequence[str], *, model: bytes | None = None) -> None:
        """Of symbols in the order of their units; users take `characters` or `sentencepiece`."""
        self.symbols = list(symbols)
        self.model = model
        self._index = {symbol: number for number, symbol in enumerate(self.symbols, start=1)}
        text = "".join(self.symbols)
        self._fold = str.lower if text == text.lower() else str.upper
        self._one_case = text == self._fold(text)
        self._processor: Any = None

    @classmethod
    def characters(cls, alphabet: str) -> Units:
        """One unit for each character, of any script; a space makes words.

        Raises:
            UserError: there is no character, one stands twice, or one has no single form in NFKC.
        """
        symbols = [unicodedata.normalize("NFKC", character) for character in alphabet]
        for character, symbol in zip(alphabet, symbols, strict=True):
            if len(symbol) != 1 or symbol == "\n":
                raise UserError(
                    f"the alphabet has {character!r}, which text never holds: NFKC turns it into "
                    f"{symbol!r}"
                )
            if symbols.count(symbol) > 1:
                raise UserError(f"the alphabet has {symbol!r} twice: each character once")
        if not "".join(symbols).strip():
            raise UserError("the alphabet has no character but space")
        return cls(symbols)

    @classmethod
    def sentencepiece(cls, path: str | os.PathLike[str]) -> Units:
        """The pieces of a SentencePiece model, unigram or other; control pieces are left out.

        Raises:
            UserError: the file is not there or no model.
        """
        try:
            model = Path(path).read_bytes()
        except OSError as error:
            raise UserError(
                f"the SentencePiece model '{path}' cannot be read: {error.strerror}"
            ) from None
        try:
            processor = _processor(model)
        except (RuntimeError, ValueError, TypeError):
            raise UserError(f"'{path}' is no SentencePiece model") from None
        return cls(_pieces(processor), model=model)

    def __len__(self) -> int:
        return len(self.symbols) + 2

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Units) and (self.symbols, self.model) == (
            other.symbols,
            other.model,
        )

    def __hash__(self) -> int:
        return hash((*self.symbols, self.model))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_processor": None}

    @property
    def end(self) -> int:
        """The last unit: begins and ends a transcript."""
        return len(self.symbols) + 1

    def normalise(self, text: str) -> str:
        """The form in which text is cut into units, and in which references are scored."""
        text = unicodedata.normalize("NFKC", text)
        if self.model is None:
            if "'" in self._index and "\N{RIGHT SINGLE QUOTATION MARK}" not in self._index:
                text = text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
            text = "".join(" " if self._is_punctuation(symbol) else symbol for symbol in text)
        text = " ".join(text.split())
        return self._fold(text) if self._one_case else text

    def _is_punctuation(self, symbol: str) -> bool:
        return symbol not in self._index and unicodedata.category(symbol).startswith("P")

    def encode(self, text: str) -> list[int]:
        """Units of a transcript, without blank and end.

        Raises:
            UnitError: it is empty, or holds what no unit stands for.
        """
        text = self.normalise(text)
        if not text:
            raise UnitError("the text is empty")
        pieces = list(text) if self.model is None else self._cut(text)
        unknown = dict.fromkeys(piece for piece in pieces if piece not in self._index)
        if unknown:
            shown = ", ".join(repr(piece) for piece in list(unknown)[:5])
            named = "" if self.model else ": data.inputs.text.alphabet names all, the space, too"
            raise UnitError(f"no unit stands for {shown}{named}")
        return [self._index[piece] for piece in pieces]

    def decode(self, units: Sequence[int]) -> str:
        """The text of units; blank and end stand for none.

        Raises:
            ValueError: a number is no unit.
        """
        wrong = [unit for unit in units if not 0 <= unit < len(self)]
        if wrong:
            raise ValueError(f"{wrong[0]} is none of the {len(self)} units")
        pieces = [self.symbols[unit - 1] for unit in units if unit not in (self.blank, self.end)]
        text = "".join(pieces) if self.model is None else self._opened().decode_pieces(pieces)
        return " ".join(text.split())

    def _cut(self, text: str) -> list[str]:
        return self._opened().encode_as_pieces(text)

    def _opened(self) -> Any:
        if self._processor is None:
            assert self.model is not None
            self._processor = _processor(self.model)
        return self._processor


def train_sentencepiece(texts: Iterable[str], path: Path, *, size: int) -> Units:
    """Train a unigram model on transcripts and write it to `path`.

    The same texts give the same model. Each character of the texts gets a piece, so that every one
    of them has units.

    Args:
        texts: transcripts, in the case they should be written in.
        path: of the model, such as units.model.
        size: pieces, the blank and the end not counted.

    Raises:
        UserError: too few texts for that many pieces, or more characters than pieces.
    """
    package = need("sentencepiece", extra="speech", purpose="training SentencePiece units")
    lines = [" ".join(unicodedata.normalize("NFKC", text).split()) for text in texts]
    lines = [line for line in lines if line]
    if not lines:
        raise UserError("there is no text to train SentencePiece units on")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(path, "wb") as file:
            package.SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                model_writer=file,
                model_type="unigram",
                vocab_size=size + 1,  # and the unknown piece, which is no unit
                character_coverage=1.0,
                normalization_rule_name="identity",  # `Units.normalise` has done it
                bos_id=-1,
                eos_id=-1,
                pad_id=-1,
                num_threads=1,
                max_sentence_length=1 << 20,
                minloglevel=2,
            )
    except RuntimeError as error:
        path.unlink(missing_ok=True)
        raise UserError(
            f"SentencePiece cannot make {size} pieces of {len(lines)} texts: "
            f"{_reason(str(error))}. Choose another size"
        ) from None
    return Units.sentencepiece(path)


def texts_checksum(texts: Iterable[str]) -> str:
    """A checksum of transcripts, whatever their order."""
    return hashlib.sha256("\n".join(sorted(texts)).encode()).hexdigest()


def _reason(message: str) -> str:
    """What SentencePiece says, without places in its source; it counts the unknown piece."""
    most = re.search(r"value <= (\d+)", message)
    if most:
        return f"they make at most {int(most[1]) - 1}"
    least = re.search(r"required_chars. \d+ vs (\d+)", message)
    if least:
        return f"they need at least {int(least[1]) - 1}, one for each character"
    said = message.strip().splitlines()[-1]
    return said.rpartition("] ")[2].strip(" .") or said


def _processor(model: bytes) -> Any:
    package = need("sentencepiece", extra="speech", purpose="SentencePiece units")
    return package.SentencePieceProcessor(model_proto=model)


def _pieces(processor: Any) -> list[str]:
    """Pieces that text is cut into: neither unknown, control nor unused."""
    return [
        processor.id_to_piece(number)
        for number in range(processor.get_piece_size())
        if not processor.is_unknown(number)
        and not processor.is_control(number)
        and not processor.is_unused(number)
    ]

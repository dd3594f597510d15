"""Which clips are trained on and held out, in which order, with which targets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from avssl.data.manifest import Clip, Manifest
from avssl.errors import UserError
from avssl.finetune.claim import fingerprint
from avssl.finetune.clips import Targets, folds_of, with_fold
from avssl.finetune.config import Finetune
from avssl.finetune.order import Order, balancing_weights, steps_per_epoch

CONFIG = Finetune(name="x", run="x")


def manifest(*rows: tuple[str, str, str]) -> Manifest:
    clips = [
        Clip(path=f"{number}.wav", label=label, split=split, extra={"fold": fold} if fold else {})
        for number, (label, split, fold) in enumerate(rows)
    ]
    return Manifest(Path("clips"), clips)


ROWS = manifest(
    ("a", "train", "1"),
    ("b", "test", "2"),
    ("", "train", "3"),
    ("b", "val", "10"),
    ("a", "train", "3"),
)


@pytest.mark.parametrize(
    ("changes", "fold", "splits"),
    [
        ({}, None, ["train", "test", "", "", "train"]),
        ({"held_out": "val"}, None, ["train", "", "", "test", "train"]),
        ({"fold": 2}, "2", ["train", "test", "", "train", "train"]),
        ({"fold": 3}, "3", ["train", "train", "", "train", "test"]),
    ],
)
def test_held_out(changes: dict[str, object], fold: str | None, splits: list[str]) -> None:
    config = replace(CONFIG, **changes)  # type: ignore[arg-type]
    assert [clip.split for clip in with_fold(ROWS, config, fold).clips] == splits


def test_folds() -> None:
    assert folds_of(ROWS, CONFIG) == [None]
    assert folds_of(ROWS, replace(CONFIG, fold=10)) == ["10"]
    assert folds_of(ROWS, replace(CONFIG, fold="all")) == ["1", "2", "3", "10"]
    with pytest.raises(
        UserError, match=r"no row has 4 in the column 'fold': found are 1, 2, 3, 10"
    ):
        folds_of(ROWS, replace(CONFIG, fold=4))
    with pytest.raises(
        UserError, match=r"no column 'part' .*; its own columns are fold: .*'split'"
    ):
        folds_of(ROWS, replace(CONFIG, fold=1, fold_column="part"))
    one = manifest(("a", "", "1"), ("b", "", "1"))
    with pytest.raises(UserError, match="names one fold, '1'"):
        folds_of(one, replace(CONFIG, fold="all"))


def test_a_row_without_a_fold_is_refused() -> None:
    """As an evaluation does: dropped from both sides, it would be missed by nobody."""
    rows = manifest(("a", "train", "1"), ("b", "test", "2"), ("a", "train", ""))
    with pytest.raises(UserError, match=r"1 of 3 clips .* have no fold .*'fold'.* 2\.wav"):
        folds_of(rows, replace(CONFIG, fold="all"))


def stretches(*rows: tuple[str, str, float | None, float | None]) -> Manifest:
    """Rows (split, fold, start, end) of one file, of two labels in turn."""
    clips = [
        Clip("a.wav", start, end, label="xy"[number % 2], split=split, extra={"fold": fold})
        for number, (split, fold, start, end) in enumerate(rows)
    ]
    return Manifest(Path("clips"), clips)


@pytest.mark.parametrize(
    ("fold", "where"), [(None, "1 held-out clips in"), ("2", "1 held-out clips of fold 2 in")]
)
def test_no_stretch_is_trained_on_and_held_out(fold: str | None, where: str) -> None:
    config = replace(CONFIG, fold=fold)
    apart = stretches(("train", "1", 0.0, 4.0), ("test", "2", 4.0, None))
    assert [clip.split for clip in with_fold(apart, config, fold).clips] == ["train", "test"]
    for both in (
        stretches(("train", "1", 0.0, 4.0), ("test", "2", 3.9, None)),
        stretches(("train", "1", None, None), ("test", "2", None, None)),
    ):
        with pytest.raises(UserError, match=f"{where} .*a.wav: take them out of one side"):
            with_fold(both, config, fold)
    unused = stretches(("train", "1", None, None), ("val", "1", None, None))
    assert with_fold(unused, config, fold)


def test_stretches_are_in_the_fingerprint() -> None:
    """A run must not go on with other stretches of the same files."""
    found = {
        fingerprint(stretches(("train", "1", start, end)))
        for start, end in ((None, None), (0.0, 4.0), (0.0, 5.0), (1.0, 4.0))
    }
    assert len(found) == 4
    clip = stretches(("train", "1", 0.0, 4.0)).clips[0]
    scanned = replace(clip, duration=9.0, has_audio=True, reader="pyav")
    assert fingerprint(Manifest(Path("x"), [clip])) == fingerprint(Manifest(Path("y"), [scanned]))


def test_folds_name_folders() -> None:
    rows = manifest(("a", "", "b-2"), ("b", "", "a_1"))
    assert folds_of(rows, replace(CONFIG, fold="all")) == ["a_1", "b-2"]
    with pytest.raises(UserError, match="letters, digits"):
        folds_of(manifest(("a", "", "../up"), ("b", "", "1")), replace(CONFIG, fold="all"))


def test_targets() -> None:
    single = Targets(ROWS, several=False)
    assert single.classes == ["a", "b"]
    assert single.table.tolist() == [[1, 0], [0, 1], [0, 0], [0, 1], [1, 0]]
    multi = manifest(("dog;cat", "train", ""), ("cat", "train", ""), ("cow; dog", "test", ""))
    found = Targets(multi, several=True)
    assert found.classes == ["cat", "cow", "dog"]
    assert found.table.tolist() == [[1, 0, 1], [1, 0, 0], [0, 1, 1]]
    with pytest.raises(
        UserError, match=r"2 clips have several labels, .* 0\.wav: set labels=multi"
    ):
        Targets(multi, several=False)
    with pytest.raises(UserError, match="0 different labels"):
        Targets(manifest(("", "train", "")), several=False)
    numbers = manifest(("10", "train", ""), ("9", "train", ""))
    assert Targets(numbers, several=False).classes == ["9", "10"]


def order(**changes: object) -> Order:
    given = {
        "batch": 4,
        "per_epoch": None,
        "repeats": 1,
        "seed": 0,
        "weights": None,
        "steps": range(10),
    }
    return Order(22, **{**given, **changes})  # type: ignore[arg-type]


def test_an_epoch_has_each_clip_once() -> None:
    batches = list(order())
    assert [len(batch) for batch in batches] == [4] * 10
    first = [index for batch in batches[:5] for _, index in batch]
    assert len(set(first)) == 20
    assert {epoch for batch in batches[:5] for epoch, _ in batch} == {0}
    assert {epoch for batch in batches[5:] for epoch, _ in batch} == {1}
    assert first != [index for batch in batches[5:] for _, index in batch]
    assert batches != list(order(seed=1))


def test_a_stopped_order_goes_on() -> None:
    assert list(order())[7:] == list(order(steps=range(7, 10)))


def test_repeated_clips_are_other_examples_of_the_same_batch() -> None:
    plain, repeated = list(order()), list(order(repeats=2))
    assert len(plain) == len(repeated)
    seen = set()
    for one, two in zip(plain, repeated, strict=True):
        clips = [index for _, index in one]
        assert [index for _, index in two] == clips * 2  # the batch, and again behind it
        assert not seen & set(two)
        seen |= set(two)
    assert len(seen) == 2 * 4 * 10  # no two copies, in any epoch, draw alike
    assert list(order(repeats=2))[7:] == list(order(repeats=2, steps=range(7, 10)))


def test_short_epochs() -> None:
    batches = list(order(per_epoch=8, steps=range(6)))
    assert [batch[0][0] for batch in batches] == [0, 0, 1, 1, 2, 2]
    with pytest.raises(UserError, match="epoch_clips is 23, but there are 22"):
        order(per_epoch=23)
    with pytest.raises(UserError, match=r"an epoch has 3 clips, fewer than data\.batch = 4"):
        order(per_epoch=3)
    assert steps_per_epoch(22, 4, 200, balanced=True) == 50


def test_balanced_draws_make_rare_classes_frequent() -> None:
    table = torch.zeros(22, 2)
    table[:20, 0] = 1
    table[20:, 1] = 1  # a tenth of the other
    weights = balancing_weights(table)
    drawn = [index for batch in order(weights=weights, steps=range(1000)) for _, index in batch]
    assert np.mean(np.array(drawn) >= 20) == pytest.approx(0.5, abs=0.03)
    more = list(order(weights=weights, per_epoch=100, steps=range(30)))
    assert more[24][0][0] == 0 and more[25][0][0] == 1


def test_a_clip_with_rare_and_frequent_labels_counts_as_rare() -> None:
    weights = balancing_weights(torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0]]))
    assert weights.tolist() == pytest.approx([1 / 3, 1 / 3, 4 / 3])

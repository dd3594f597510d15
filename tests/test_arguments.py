"""Arguments out of range are refused by the parser."""

import argparse

import pytest

from avssl.arguments import amount, count, whole


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "x", ""])
def test_counts_are_whole_and_above_zero(text: str) -> None:
    assert count("3") == 3
    with pytest.raises(argparse.ArgumentTypeError, match="a whole number above 0"):
        count(text)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "x"])
def test_amounts_are_finite_and_above_zero(text: str) -> None:
    assert amount("0.5") == 0.5
    with pytest.raises(argparse.ArgumentTypeError, match="a number above 0"):
        amount(text)


def test_seeds_are_those_that_every_library_takes() -> None:
    assert whole("0") == 0 and whole(str(2**32 - 1)) == 2**32 - 1
    for text in ("-1", str(2**32), "1.5", ""):
        with pytest.raises(argparse.ArgumentTypeError):
            whole(text)

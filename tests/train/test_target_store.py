"""Rows of targets on disk."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from avssl.errors import UserError
from avssl.train.target_store import Precision, TargetStore


def store(folder: Path, precision: Precision) -> TargetStore:
    shapes = {"a.x": (3,), "b.y": ()}
    TargetStore.make(folder, rows=5, shapes=shapes, precision=precision, made_of={"of": 1})
    return TargetStore(folder)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_rows_come_back_as_they_were_given_in_any_precision(
    precision: Precision, tmp_path: Path
) -> None:
    kept = store(tmp_path / "store", precision)
    values = {"a.x": torch.randn(2, 3), "b.y": torch.randn(2)}
    given = kept.write([4, 1], values)
    found, there = TargetStore(tmp_path / "store").read([0, 1, 4])
    assert there.tolist() == [False, True, True]
    kind = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    for key, value in values.items():
        assert torch.equal(given[key], value.to(kind).float())
        assert torch.equal(found[key][1:], given[key].flip(0)) and not found[key][0].any()


def test_values_too_large_for_fp16_are_refused(tmp_path: Path) -> None:
    kept = store(tmp_path / "store", "fp16")
    with pytest.raises(UserError, match=r"'a\.x' reach 7e\+04, too large for fp16: set teacher"):
        kept.write([0], {"a.x": torch.full((1, 3), 7e4), "b.y": torch.zeros(1)})


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = store(tmp_path / "store", "fp32")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UserError, match=r"No space left on device\. It needs"):
        kept.write([0], {"a.x": torch.zeros(1, 3), "b.y": torch.zeros(1)})


def test_a_disk_that_cannot_be_read_is_not_called_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(tmp_path / "store", "fp32")

    def broken(_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(np.lib.format, "read_magic", broken)
    with pytest.raises(UserError, match=r"could not read .*a\.x\.npy': Input/output") as error:
        TargetStore(tmp_path / "store")
    assert "remove" not in str(error.value)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"not make the teacher cache .*/file/x: Not a directory"):
        store(tmp_path / "file" / "x", "fp32")


def test_a_store_that_another_process_made_first_stays(tmp_path: Path) -> None:
    first = store(tmp_path / "store", "fp32")
    first.write([2], {"a.x": torch.ones(1, 3), "b.y": torch.ones(1)})
    second = store(tmp_path / "store", "fp32")
    assert second.read([2])[1].tolist() == [True]
    assert [item.name for item in tmp_path.iterdir()] == ["store"]
    assert json.loads((tmp_path / "store" / "cache.json").read_text())["made_of"] == {"of": 1}

"""Benchmarks run, say what they skip and why, and refuse unknown names without a traceback."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from avssl.bench import attention, lengths, retrieval, teacher_cache, teachers
from avssl.bench.timing import alternate, median_ratio
from avssl.data.length_config import LengthsConfig
from avssl.errors import UserError
from avssl.retrieval import nearest
from tests.train import tiny
from tests.train.test_lengths import TEXT, WAVES, written

ROOT = Path(__file__).parents[2]


def test_attention_table_names_what_was_skipped(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--tokens", "5", "7", "--batch", "1", "--heads", "2", "--width", "8"]
    assert attention.main([*options, "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-2].split()[0] == "5" and out.splitlines()[-1].split()[0] == "7"
    if not torch.cuda.is_available():
        assert "skipped xformers" in out and "needs CUDA" in out


def test_calls_alternate_and_their_times_pair_up() -> None:
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in ("a", "b")}
    times = alternate(calls, rounds=3)
    assert order == ["a", "b", "b", "a", "a", "b", "b", "a"]  # the first round is the warm-up
    assert [len(times[name]) for name in ("a", "b")] == [3, 3]
    assert median_ratio({"a": [1.0, 2.0, 9.0], "b": [1.0, 1.0, 3.0]}, "a", "b") == 2.0


@pytest.mark.parametrize("clusters", ["20", "0"])
def test_search_is_measured_and_leaves_no_file(
    clusters: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(nearest, "COMPARE_ALL", 0)
    options = ["--width", "16", "--queries", "30", "--folder", str(tmp_path), "--threads", "1"]
    code = retrieval.main([*options, "--vectors", "3000", "--clusters", clusters])
    out = capsys.readouterr().out
    share = re.search(r"recall@10 (\d\.\d+)", out)
    p50 = re.search(r"p50 (\d+\.\d)", out)
    assert share and p50 and float(share[1]) >= 0.9
    assert code == (float(share[1]) < 0.95 or float(p50[1]) > 20)
    assert "warm page cache" in out and ("missed: " in out) == bool(code)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"this benchmark needs .* allowed are 1\.0 MB"):
        retrieval.main([*options, "--memory", "1MB", "--vectors", "1000000"])


def test_batches_of_similar_length_hold_the_same_clips_and_less_padding() -> None:
    frames = np.random.default_rng(0).integers(25, 251, 200)
    bucketed, random = lengths.batches(frames, LengthsConfig(budget=1500, buckets=8))
    assert len(bucketed) == len(random)
    clips = [np.sort(np.concatenate(kind)) for kind in (bucketed, random)]
    assert np.array_equal(*clips) and len(set(clips[0].tolist())) == len(clips[0]) > 150
    places = [sum(len(x) * frames[x].max() for x in kind) for kind in (bucketed, random)]
    assert max(len(x) * frames[x].max() for x in bucketed) <= 1500
    assert places[1] > 1.4 * places[0]  # what a model that counts padding in would have to do


def test_lengths_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lengths, "GOAL", 0.0)
    waves = WAVES.replace("dtype: int64", "dtype: int64, optional: true")
    config = written(tmp_path, tmp_path, graph=waves)
    options = ["--config", str(config), "--clips", "8", "--budget", "60"]
    code = lengths.main([*options, "--longest", "2", "--rounds", "1", "--clock", "processor"])
    out = capsys.readouterr().out
    assert code == 0 and "goal 0 reached" in out
    assert all(name in out for name in ("buckets", "random, padded", "random, padding left out"))
    plain = written(tmp_path / "plain", tmp_path, text=TEXT.replace("lengths:", "# lengths:"))
    with pytest.raises(UserError, match="which has the length of the clip"):
        lengths.main(["--config", str(plain)])


@pytest.mark.parametrize("target, value", [("_RECALL", 1.1), ("_MILLISECONDS", 0.0)])
def test_a_missed_target_is_exit_code_1(
    target: str, value: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(retrieval, target, value)
    options = ["--width", "16", "--queries", "10", "--threads", "1", "--vectors", "500"]
    assert retrieval.main(options) == 1
    assert "missed: " in capsys.readouterr().out


def test_a_partial_teacher_is_timed_against_a_whole_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--config", str(ROOT / "configs" / "dmae.yaml"), "--batch", "1", "--rounds", "1"]
    monkeypatch.setattr(teachers, "SPARE", 100.0)
    assert teachers.main(options) == 0
    out = capsys.readouterr().out
    assert "teacher 'teacher', 6 of 8 blocks" in out and "within 0.750" in out
    monkeypatch.setattr(teachers, "SPARE", 0.0)
    assert teachers.main(options) == 1
    with pytest.raises(UserError, match="no frozen teacher is asked for its tap alone"):
        teachers.main(["--config", str(ROOT / "configs" / "mimco.yaml")])


def test_cached_targets_are_timed_against_teachers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(teacher_cache, "open_clips", tiny.TinyClips)
    monkeypatch.setattr(teacher_cache, "GOAL", 0.0)
    options = ["--config", str(tiny.write(tmp_path)), "--steps", "2", "--rounds", "1"]
    assert teacher_cache.main([*options, "--stage", "second"]) == 0
    out = capsys.readouterr().out
    assert "losses differ by at most 0.0e+00" in out and "goal 0.0 by wall time reached" in out
    monkeypatch.setattr(teacher_cache, "GOAL", 1e9)
    assert teacher_cache.main([*options, "--stage", "second"]) == 1
    with pytest.raises(UserError, match="has no stage 'third'"):
        teacher_cache.main([*options, "--stage", "third"])


def test_unknown_benchmark_ends_with_code_2_and_the_choices() -> None:
    ran = subprocess.run(
        [sys.executable, "tools/bench.py", "grph"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    start = "error: no benchmark 'grph': choose one of graph, attention, data, "
    assert ran.stderr.startswith(start) and "retrieval" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1

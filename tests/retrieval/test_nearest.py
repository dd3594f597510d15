"""What is found is what comparing all finds, exactly or nearly, and says how near."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from avssl.bench.retrieval import made_up
from avssl.errors import UserError
from avssl.retrieval import exact, fit, nearest
from avssl.retrieval.exact import exact_rows, recall
from avssl.retrieval.fit import build_nearest
from avssl.retrieval.nearest import Nearest, search_memory

N, D = 6000, 32


def drawn(number: int, seed: int) -> np.ndarray:
    return np.concatenate(list(made_up(number, D, clusters=50, seed=seed)))


@pytest.fixture
def coded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small sets are searched as large ones are."""
    pytest.importorskip("faiss")
    monkeypatch.setattr(nearest, "COMPARE_ALL", 0)


@pytest.mark.parametrize("portion", [3, 128, 10**6])
def test_exact_rows_are_those_of_numpy(monkeypatch: pytest.MonkeyPatch, portion: int) -> None:
    monkeypatch.setattr(exact, "CHUNK", portion * D)  # portions of so many vectors are merged
    vectors = drawn(1000, 0)
    own = np.array([4, 500, 999, -1, -1])
    queries = np.concatenate([vectors[own[:3]], drawn(2, 1)])
    order = np.argsort(-(queries.astype(np.float64) @ vectors.T.astype(np.float64)), axis=1)
    assert exact_rows(vectors, queries, top=10).tolist() == order[:, :10].tolist()
    others = [row[row != self][:10].tolist() for row, self in zip(order, own, strict=True)]
    assert exact_rows(vectors, queries, top=10, without=own).tolist() == others
    assert others[3][0] == order[3, 0]  # the nearest of a query from elsewhere counts
    assert exact_rows(vectors[:4], queries, top=10).shape == (5, 4)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_comparing_all_gives_the_cosines_in_order(tmp_path: Path, precision: str) -> None:
    vectors = drawn(N, 0).astype(precision)
    vectors[[7, 99, 3000]] = vectors[5]  # equal ones go by row
    assert build_nearest(vectors, tmp_path / "x.faiss") == {"type": "exact"}
    assert not list(tmp_path.iterdir())
    found = Nearest(vectors, {"type": "exact"}, tmp_path / "x.faiss")
    for query in [*drawn(20, 1).astype(np.float64), vectors[5].astype(np.float64)]:
        query = query / np.linalg.norm(query)
        cosines = vectors.astype(np.float64) @ query
        wanted = sorted(range(N), key=lambda row: (-cosines[row], row))[:10]
        rows, scores = found.search(query, top=10)
        assert rows.tolist() == wanted
        np.testing.assert_allclose(scores, cosines[wanted], atol=1e-12)
    assert rows[:4].tolist() == [5, 7, 99, 3000]
    assert len(found.search(query, top=N + 5)[0]) == N


def test_codes_find_nearly_all_and_score_exactly(tmp_path: Path, coded: None) -> None:
    vectors, queries = drawn(N, 0), drawn(100, 1)
    file = tmp_path / "x.faiss"
    recipe = build_nearest(vectors, file)
    assert recipe["type"] == "ivf_pq" and recipe["recall"] >= 0.95
    found = Nearest(vectors, recipe, file)
    answers = [found.search(query.astype(np.float64), top=10) for query in queries]
    assert (
        recall(np.stack([rows for rows, _ in answers]), exact_rows(vectors, queries, top=10))
        >= 0.95
    )
    for query, (rows, scores) in zip(queries, answers, strict=True):
        np.testing.assert_allclose(scores, vectors[rows].astype(np.float64) @ query, atol=1e-6)
        assert (np.diff(scores) <= 0).all()
    assert file.stat().st_size + 8 * N <= 1.1 * search_memory(N, D)


def test_vectors_of_another_kind_count_when_candidates_are_chosen(
    tmp_path: Path, coded: None
) -> None:
    vectors = drawn(N, 0)
    shift = np.random.default_rng(3).standard_normal(D)
    foreign = drawn(N, 2) + 3 * shift / np.linalg.norm(shift)  # as sounds lie apart from pictures
    foreign /= np.linalg.norm(foreign, axis=1, keepdims=True)
    file = tmp_path / "x.faiss"
    found = Nearest(vectors, build_nearest(vectors, file, foreign=foreign[: N // 2]), file)
    asked = foreign[N // 2 :][:100]
    rows = np.stack([found.search(query, top=10)[0] for query in asked])
    assert recall(rows, exact_rows(vectors, asked, top=10)) >= 0.95


def test_only_the_query_itself_does_not_count_when_recall_is_measured(
    tmp_path: Path, coded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, foreign = drawn(N, 0), drawn(N, 2)
    asked: list[tuple[np.ndarray, np.ndarray]] = []
    real = exact_rows

    def spied(vectors: np.ndarray, queries: np.ndarray, *, top: int, without: np.ndarray) -> object:
        asked.append((queries, without))
        return real(vectors, queries, top=top, without=without)

    monkeypatch.setattr(fit, "exact_rows", spied)
    build_nearest(vectors, tmp_path / "x.faiss", foreign=foreign)
    [(queries, without)] = asked
    own = without >= 0
    assert own.sum() == 50 == (~own).sum()
    np.testing.assert_allclose(queries[own], vectors[without[own]], atol=1e-6)
    assert (queries[~own] @ foreign.T).max(1) == pytest.approx(1, abs=1e-6)


def test_too_little_recall_is_said_when_it_is_built(
    tmp_path: Path, coded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    vectors = drawn(N, 0)
    build_nearest(vectors, tmp_path / "good.faiss", say=said.append)
    assert "warning" not in "".join(said)
    monkeypatch.setattr(fit, "_trials", lambda nearest: [(1, 10)])  # one list, ten candidates
    recipe = build_nearest(vectors, tmp_path / "bad.faiss", say=said.append)
    assert recipe["recall"] < 0.95
    assert f"finds {recipe['recall']:.1%}" in said[-1] and "bad.faiss: warning" in said[-1]
    assert Nearest(vectors, recipe, tmp_path / "bad.faiss").recall == recipe["recall"]


def test_a_large_top_reads_no_more_than_is_allowed(
    tmp_path: Path, coded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "_MOST", 800)
    monkeypatch.setattr(nearest, "CHUNK", 10 * D)  # read in portions of 10 vectors

    class Counted(np.ndarray):
        read: list[int]

        def __getitem__(self, rows: object) -> np.ndarray:
            Counted.read.append(len(np.atleast_1d(rows)))  # type: ignore[arg-type]
            return np.asarray(self).__getitem__(rows)  # type: ignore[index]

    vectors = drawn(N, 0)
    recipe = build_nearest(vectors, tmp_path / "x.faiss")
    found = Nearest(vectors.view(Counted), recipe, tmp_path / "x.faiss")
    Counted.read = []
    query = drawn(1, 1)[0].astype(np.float64)
    rows, scores = found.search(query, top=N)
    assert len(rows) == found.most == 200 and sum(Counted.read) <= 800
    assert max(Counted.read) <= 10
    np.testing.assert_allclose(scores, vectors[rows].astype(np.float64) @ query, atol=1e-12)


def test_an_index_grows_and_is_fitted_anew_when_it_has_doubled(tmp_path: Path, coded: None) -> None:
    vectors, queries = drawn(3 * N, 0), drawn(100, 1)
    first = build_nearest(vectors[:N], tmp_path / "1.faiss")
    before = Nearest(vectors[:N], first, tmp_path / "1.faiss")
    recipes = {}
    for size in (N + 100, 3 * N):
        file = tmp_path / f"{size}.faiss"
        recipes[size] = build_nearest(vectors[:size], file, before=before)
        found = Nearest(vectors[:size], recipes[size], file)
        rows = np.stack([found.search(query.astype(np.float64), top=10)[0] for query in queries])
        assert recall(rows, exact_rows(vectors[:size], queries, top=10)) >= 0.95
        before = Nearest(vectors[:N], first, tmp_path / "1.faiss")
    assert [recipe["fitted"] for recipe in recipes.values()] == [N, 3 * N]


def test_two_users_at_once_get_what_one_gets(tmp_path: Path, coded: None) -> None:
    vectors, queries = drawn(N, 0), drawn(60, 1).astype(np.float64)
    file = tmp_path / "x.faiss"
    found = Nearest(vectors, build_nearest(vectors, file), file)
    alone = [found.search(query, top=10)[0].tolist() for query in queries]
    with ThreadPoolExecutor(2) as pool:
        for together in pool.map(
            lambda _: [found.search(q, top=10)[0].tolist() for q in queries], "ab"
        ):
            assert together == alone


@pytest.mark.parametrize("harm", ["cut", "noise", "empty"])
def test_a_damaged_index_is_a_sentence(tmp_path: Path, coded: None, harm: str) -> None:
    vectors, file = drawn(N, 0), tmp_path / "x.faiss"
    recipe = build_nearest(vectors, file)
    whole = file.read_bytes()
    harmed = {"cut": whole[: len(whole) // 2], "noise": b"nonsense" * 100, "empty": b""}
    file.write_bytes(harmed[harm])
    with pytest.raises(UserError, match=r"x\.faiss is damaged .* build the index anew"):
        Nearest(vectors, recipe, file)
    file.write_bytes(whole)
    with pytest.raises(UserError, match=r"6000 vectors of width 32, .* \[5000, 32\]"):
        Nearest(vectors[:5000], recipe, file)


def test_vectors_that_lost_their_length_are_noticed(tmp_path: Path) -> None:
    vectors = drawn(100, 0)
    found = Nearest(vectors, {"type": "exact"}, tmp_path / "x.faiss")
    query = vectors[3].astype(np.float64)
    vectors[3] *= 5
    with pytest.raises(UserError, match="not of unit length"):
        found.search(query, top=1)

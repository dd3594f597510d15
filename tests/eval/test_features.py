"""Features of towers: no mask, no gradient, and the model left as it was."""

import pytest
import torch
from torch import Tensor, nn

from avssl.errors import UserError
from avssl.eval.features import Features, embed
from avssl.eval.probes import evaluate, final_evaluation, probe


class Tower(nn.Module):
    """Mean of the input's rows and their linear map; notes how it was called."""

    outputs = ("tokens", "pooled")

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, dim)
        self.drop = nn.Dropout(0.5)
        self.grad: list[bool] = []

    def forward(self, x: Tensor, keep: Tensor | None = None) -> dict[str, Tensor]:
        assert keep is None
        self.grad.append(torch.is_grad_enabled())
        tokens = self.drop(self.linear(x))
        return {"tokens": tokens, "pooled": tokens.mean(1)}


class Pool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.audio = Tower(6, 8)
        self.video = Tower(10, 8)
        self.plain = Pool()
        self.teacher = Tower(6, 8).eval()

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        raise AssertionError("embedding runs towers, not the graph")


TOWERS = {"audio": "audio.pooled", "video": "video.pooled"}


class Settings:
    towers = TOWERS
    clips = 12


def batches(start: int, stop: int, size: int = 4, seed: int = 0) -> list[dict]:
    generator = torch.Generator().manual_seed(seed)
    made = []
    for first in range(start, stop, size):
        clip = torch.arange(first, min(first + size, stop))
        n = len(clip)
        made.append({
            "audio": torch.randn(n, 5, 6, generator=generator),
            "video": torch.randn(n, 3, 10, generator=generator),
            "label": clip % 3,
            "clip": clip,
            "failures": [],
        })  # fmt: skip
    return made


def test_embed_restores_every_mode_and_builds_no_graph() -> None:
    pair = Pair().train()
    pair.teacher.eval()
    before = {name: module.training for name, module in pair.named_modules()}
    loader = batches(0, 10)
    features = embed(pair, TOWERS, loader, device="cpu")
    assert {name: module.training for name, module in pair.named_modules()} == before
    assert pair.audio.grad == [False] * 3
    expected = pair.audio.eval()(torch.cat([b["audio"] for b in loader]))["pooled"]
    assert torch.allclose(features["audio"], expected)  # so dropout was off
    assert features["video"].shape == (10, 8) and features["video"].dtype == torch.float32
    assert features.clips.tolist() == list(range(10))
    assert features.labels.tolist() == [i % 3 for i in range(10)]


def test_modes_are_restored_after_an_error() -> None:
    pair = Pair().train()
    with pytest.raises(UserError):
        embed(pair, {"audio": "audio.tokens"}, batches(0, 4), device="cpu")
    assert pair.training and pair.audio.drop.training


def test_a_repeated_clip_counts_once_and_order_does_not_matter() -> None:
    pair, loader = Pair(), batches(0, 8)
    straight = embed(pair, TOWERS, loader, device="cpu")
    shuffled = embed(pair, TOWERS, [*loader[::-1], loader[0]], device="cpu")
    assert shuffled.clips.tolist() == list(range(8))
    assert torch.equal(straight["audio"], shuffled["audio"])


def test_embed_stops_after_enough_clips() -> None:
    seen = []

    def loader():
        for batch in batches(0, 100):
            seen.append(len(batch["clip"]))
            yield batch

    assert len(embed(Pair(), TOWERS, loader(), device="cpu", clips=6)) == 6
    assert sum(seen) == 8


def test_modules_with_one_output() -> None:
    features = embed(Pair(), {"audio": "plain"}, batches(0, 4), device="cpu")
    assert torch.allclose(features["audio"], batches(0, 4)[0]["audio"].mean(1))


@pytest.mark.parametrize(
    ("towers", "message"),
    [
        ({"audio": "sound.pooled"}, "no module 'sound': its modules are audio, video"),
        ({"audio": "audio.poold"}, "gives tokens, pooled"),
        ({"audio": "audio.tokens"}, r"shape \[B, D\]"),
        ({"sound": "audio.pooled"}, "a batch holds audio"),
    ],
)
def test_mistakes_are_sentences(towers: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        embed(Pair(), towers, batches(0, 4), device="cpu")


def test_diverged_and_empty() -> None:
    pair = Pair()
    nn.init.constant_(pair.audio.linear.bias, torch.nan)
    with pytest.raises(UserError, match="not finite in 4 of 4 clips"):
        embed(pair, TOWERS, batches(0, 4), device="cpu")
    with pytest.raises(UserError, match="empty"):
        embed(Pair(), TOWERS, [], device="cpu")


def test_probe_gives_figures_for_every_tower() -> None:
    figures = probe(Pair(), Settings(), {"val": batches(0, 40)})
    assert set(figures) == {
        "retrieval/audio_to_video_r1", "retrieval/audio_to_video_median",
        "retrieval/video_to_audio_r1", "retrieval/video_to_audio_median",
        "knn/audio", "knn/video", "rankme/audio", "rankme/video",
    }  # fmt: skip
    assert all(isinstance(value, float) for value in figures.values())


def test_final_evaluation_scores_test_clips_only() -> None:
    pair = Pair()
    loaders = {"train": batches(0, 60), "test": batches(60, 90, seed=1)}
    other = Pair()
    measured = final_evaluation({"a": pair, "b": other}, Settings(), loaders)
    found, features = measured["a"]
    assert measured["b"][0] == final_evaluation({"b": other}, Settings(), loaders)["b"][0] != found
    assert (found.clips, found.train_clips, found.classes) == (30, 60, 3)
    assert set(found.linear) == set(found.knn) == {"audio", "video", "both"}
    assert features.clips.tolist() == list(range(60, 90))
    for name, counts in found.confusion.items():
        assert [sum(row) for row in counts] == [10, 10, 10]
        assert sum(counts[i][i] for i in range(3)) / 30 == pytest.approx(found.linear[name])
    with pytest.raises(UserError, match="30 clips are in the train and in the test split"):
        final_evaluation({"a": pair}, Settings(), loaders | {"train": batches(0, 90)})


def test_final_evaluation_without_labels_and_with_unequal_widths() -> None:
    def features(start: int) -> Features:
        x, y = torch.randn(20, 4), torch.randn(20, 6)
        clips = torch.arange(start, start + 20)
        return Features({"audio": x, "video": y}, torch.full((20,), -1), clips)

    found = evaluate(features(0), features(20))
    assert found.linear == {} and found.knn == {} and found.retrieval == {}
    assert set(found.rankme) == {"audio", "video"}


def test_the_subset_is_the_same_200_test_clips_from_all_classes() -> None:
    clips = torch.arange(800)
    labels = torch.arange(800) // 100  # manifests are often ordered by class
    test = Features({"x": torch.randn(800, 2)}, labels, clips)
    drawn = test.draw(200)
    assert len(drawn) == 200 and len(set(drawn.clips.tolist())) == 200
    assert drawn.labels.bincount().min() >= 10
    assert torch.equal(
        Features({"x": torch.zeros(800, 5)}, labels, clips).draw(200).clips, drawn.clips
    )
    assert len(test.draw(1000)) == 800

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(800, 8, generator=generator)
    train = Features({"audio": x, "video": x}, labels, clips + 800)
    y = torch.zeros_like(x)
    y[drawn.clips] = x[drawn.clips]  # the pairs outside the draw cannot be found
    found = evaluate(train, Features({"audio": x, "video": y}, labels, clips))
    assert found.retrieval_subset["audio_to_video"].clips == 200
    assert found.retrieval_subset["audio_to_video"].r1 == 1
    assert found.retrieval["audio_to_video"].r1 == pytest.approx(1 / 4)
    assert found.majority == 1 / 8

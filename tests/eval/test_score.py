"""Figures of features on splits and folds, against scikit-learn and by hand."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import top_k_accuracy_score
from sklearn.model_selection import LeaveOneGroupOut, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from avssl.data.manifest import Clip, Manifest
from avssl.errors import UserError
from avssl.eval.clips import EvalClips, Part
from avssl.eval.features import Features
from avssl.eval.score import Fit, Score, score


def made(clips: int = 120, classes: int = 6, spread: float = 1.5) -> Features:
    """Features "audio" and "video" [N, 8] around a centre for each class."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(clips) % classes
    vectors = {}
    for name in ("audio", "video"):
        centres = torch.randn(classes, 8, generator=generator)
        vectors[name] = centres[labels] + spread * torch.randn(clips, 8, generator=generator)
    return Features(vectors, labels, torch.arange(clips))


def chosen(features: Features, parts: list[Part]) -> EvalClips:
    classes = int(features.labels.max()) + 1
    manifest = Manifest(None, [Clip("x") for _ in range(len(features))])  # type: ignore[arg-type]
    targets = torch.nn.functional.one_hot(features.labels, classes).double()
    names = [f"class {i}" for i in range(classes)]
    return EvalClips(manifest, names, features.labels, targets, parts)


def measured(features: Features, clips: EvalClips, fit: Fit = "linear", **more: bool) -> Score:
    options = {"multi_label": False, **more}
    return score(features, ["audio"], clips, fit=fit, progress=lambda: None, **options)


def halves(features: Features) -> list[Part]:
    rows = range(len(features))
    return [Part("test", [i for i in rows if i // 6 % 2], [i for i in rows if not i // 6 % 2])]


def model() -> object:
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))


def test_top_1_and_top_5_equal_sklearn() -> None:
    features = made()
    x, y = features["audio"].double().numpy(), features.labels.numpy()
    [part] = halves(features)
    fit, test = part.fit, part.score
    reference = model().fit(x[fit], y[fit])  # type: ignore[attr-defined]
    found = measured(features, chosen(features, halves(features)))
    probability = np.zeros((60, 6))
    probability[:, reference[-1].classes_] = reference.predict_proba(x[test])
    for k in (1, 5):
        expected = top_k_accuracy_score(y[test], probability, k=k, labels=range(6))
        assert found.figures[f"top{k}"] == pytest.approx(expected)


def test_folds_equal_sklearns_cross_validation() -> None:
    features = made()
    folds = torch.arange(120) // 24
    rows = range(120)
    parts = [
        Part(f"fold {k}", [i for i in rows if folds[i] != k], [i for i in rows if folds[i] == k])
        for k in range(5)
    ]
    found = measured(features, chosen(features, parts))
    x, y = features["audio"].double().numpy(), features.labels.numpy()
    expected = cross_val_score(model(), x, y, groups=folds.numpy(), cv=LeaveOneGroupOut())
    assert [one["top1"] for one in found.folds.values()] == pytest.approx(expected.tolist())
    assert found.figures["top1"] == pytest.approx(expected.mean())
    assert found.spread["top1"] == pytest.approx(expected.std(ddof=1))
    assert (found.fitted, found.scored) == (96, 120)
    assert found.confusion is not None
    table = torch.tensor(found.confusion)
    assert table.sum() == 120 and table.sum(1).tolist() == found.clips
    assert table.diagonal().sum() / 120 == pytest.approx(found.figures["top1"])


@pytest.mark.parametrize("fit", ["linear", "knn"])
def test_features_that_say_nothing_score_chance(fit: Fit) -> None:
    features = made()
    features.vectors["audio"] = torch.ones(120, 8)
    found = measured(features, chosen(features, halves(features)), fit)
    assert found.figures["top1"] <= found.majority["top1"] + 1e-9
    assert found.figures["top5"] <= found.majority["top5"] + 1e-9


def test_majority_and_chance_by_hand() -> None:
    features = made(12, 3)
    features.labels[:6] = torch.tensor([0, 1, 1, 2, 1, 1])
    found = measured(features, chosen(features, halves(features)), "knn")
    assert found.chance == {"top1": pytest.approx(1 / 3), "top5": 1}
    assert found.majority["top1"] == pytest.approx(4 / 6)
    assert found.clips == [1, 4, 1]


@pytest.mark.parametrize("fit", ["linear", "knn"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_classes_that_nothing_was_fitted_to(fit: Fit, multi_label: bool) -> None:
    features = made(12, 4)
    features.labels[:] = torch.tensor([0, 0, 0, 2, 2, 2, 1, 1, 1, 3, 3, 3])
    part = Part("test", list(range(6)), list(range(6, 12)))
    with pytest.raises(UserError, match=r"none of its 6 .* 'class 0', 'class 2'; scored 'class 1'"):
        measured(features, chosen(features, [part]), fit, multi_label=multi_label)
    part = Part("test", list(range(5)), list(range(5, 12)))
    found = measured(features, chosen(features, [part]), fit, multi_label=multi_label)
    assert (found.unknown, found.scored) == (6, 7)
    if not multi_label:
        assert found.majority == {"top1": pytest.approx(1 / 7), "top5": pytest.approx(1 / 7)}


def test_several_labels_have_map_and_no_confusion() -> None:
    features = made()
    clips = chosen(features, halves(features))
    clips.targets[:, 0] = 1.0  # a class that all clips have
    clips.targets[:, 5] = 0.0  # and one that none has
    found = measured(features, clips, multi_label=True)
    assert set(found.figures) == {"mAP"} and found.confusion is None
    assert found.per_class[0] == 1 and np.isnan(found.per_class[5])
    assert found.figures["mAP"] == pytest.approx(np.nanmean(found.per_class))
    share = clips.targets[clips.parts[0].score].mean(0)[:5].mean().item()
    assert found.chance["mAP"] == pytest.approx(share) and found.figures["mAP"] > share


def test_clips_without_features_are_neither_fitted_to_nor_scored() -> None:
    features = made()
    clips = chosen(features, halves(features))
    found = measured(features.select(torch.arange(10, 111)), clips)
    assert (found.fitted, found.scored) == (50, 51)

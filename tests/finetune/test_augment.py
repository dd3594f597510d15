"""Augmentation in fine-tuning: what is mixed, masked, added and rolled."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from avssl.data.config import FbankConfig, FramesConfig
from avssl.data.features import fbank, normalize
from avssl.finetune.augment import augment, mask_band, mix, roll
from avssl.finetune.config import Augmentation, CutMix, Mixup
from avssl.finetune.read import read_file

SOUND = {"audio": FbankConfig(frames=64, bins=32, mean=-5.0, std=3.0)}
BOTH = {**SOUND, "video": FramesConfig(frames=4, size=16)}


def batch(rows: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"audio": torch.randn(rows, 1, 64, 32), "video": torch.randn(rows, 3, 4, 16, 16)}


def test_mixed_targets_are_shares_of_two_clips() -> None:
    inputs, target = batch(64), torch.eye(64)
    mixed, labels = mix(inputs, target, recipes=BOTH, config=Mixup(probability=0.5, alpha=10.0))
    assert torch.allclose(labels.sum(1), torch.ones(64))
    own = labels.diagonal()
    touched = own < 1
    assert 16 < int(touched.sum()) < 48  # half of them, but for the partner that is the clip itself
    assert 0.35 < own[touched].mean() < 0.65  # Beta(10, 10) has the mean 0.5
    assert own[touched].std() < 0.2  # and the deviation 0.11
    assert ((labels > 0).sum(1) <= 2).all()
    for row in range(64):
        others = labels[row].clone()
        others[row] = 0
        partner = int(others.argmax())
        share = own[row]
        expected = share * inputs["video"][row] + (1 - share) * inputs["video"][partner]
        assert torch.allclose(mixed["video"][row], expected, atol=1e-6)
        assert torch.equal(mixed["audio"][row], inputs["audio"][row]) == (not touched[row])


def pictures(rows: int) -> dict[str, torch.Tensor]:
    """Each clip is filled with its number."""
    numbers = torch.arange(float(rows)).view(-1, 1, 1, 1, 1)
    return {"video": numbers.expand(rows, 3, 4, 16, 16).clone()}


def test_cutmix_pastes_a_rectangle_and_shares_the_target_by_its_area() -> None:
    torch.manual_seed(0)
    config = Augmentation(cutmix=CutMix(probability=1.0), mixup=Mixup(probability=1.0))
    recipes = {"video": BOTH["video"]}
    areas = set()
    for _ in range(8):
        mixed, target = augment(pictures(6), torch.eye(6), recipes=recipes, config=config)
        for row in range(6):
            x = mixed["video"][row]
            pasted = x != row
            assert (x[pasted] == (row - 1) % 6).all()  # whole pictures, never a mean: no mixup
            assert (pasted == pasted[:1, :1]).all()  # the same in all pictures of a clip
            share = pasted.float().mean()
            assert target[row, row] == pytest.approx(1 - share.item(), abs=1e-6)
            assert target[row].sum() == pytest.approx(1.0)
            inside = pasted[0, 0].float()
            assert torch.equal(inside, inside.amax(1, keepdim=True) * inside.amax(0, keepdim=True))
        areas.add(round(share.item(), 4))
    assert len(areas) > 4


def test_cutmix_and_mixup_take_turns() -> None:
    torch.manual_seed(0)
    config = Augmentation(cutmix=CutMix(probability=0.5), mixup=Mixup(probability=1.0, alpha=5.0))
    recipes = {"video": BOTH["video"]}
    cut = 0
    for _ in range(40):
        mixed, _ = augment(pictures(6), torch.eye(6), recipes=recipes, config=config)
        cut += bool((mixed["video"] == mixed["video"].round()).all())
    assert 10 < cut < 30


def test_erasing_fills_a_rectangle_with_noise() -> None:
    torch.manual_seed(0)
    inputs = {**batch(1), "video": torch.full((200, 3, 4, 16, 16), 7.0)}
    inputs["audio"] = torch.randn(200, 1, 64, 32)
    config = Augmentation(erase=0.25)
    found, _ = augment(inputs, torch.eye(200), recipes=BOTH, config=config)
    assert torch.equal(found["audio"], inputs["audio"])
    erased = found["video"] != 7
    rows = erased.flatten(1).any(1)
    assert 30 < int(rows.sum()) < 70  # a quarter
    share = erased[rows].float().mean((1, 2, 3, 4))
    assert 0.01 < share.min() and share.max() < 0.36
    assert (erased == erased[:, :1, :1]).all()  # the same place in all pictures
    assert abs(found["video"][erased].mean()) < 0.1 and 0.9 < found["video"][erased].std() < 1.1


@pytest.mark.parametrize(("probability", "mixed"), [(0.0, 0), (1.0, 32)])
def test_probability_of_mixing(probability: float, mixed: int) -> None:
    torch.manual_seed(1)
    config = Mixup(probability=probability)
    _, labels = mix(batch(32), torch.eye(32), recipes=BOTH, config=config)
    assert abs(int((labels.diagonal() < 1).sum()) - mixed) <= 3  # some are their own partner


def test_mixed_spectrograms_are_those_of_mixed_noises() -> None:
    torch.manual_seed(0)
    recipe = FbankConfig(frames=98, bins=16, mean=-5.0, std=3.0)
    sounds = torch.randn(2, 64, 16000) * torch.tensor([0.3, 0.05])[:, None, None]

    def spectrogram(x: torch.Tensor) -> torch.Tensor:
        return normalize(fbank(x, sample_rate=16000, bins=16), mean=-5.0, std=3.0).unsqueeze(1)

    inputs = {"audio": spectrogram(sounds.flatten(0, 1))}
    target = torch.eye(2).repeat_interleave(64, 0)
    config = Mixup(probability=1.0, alpha=1e6)  # the share is a half
    mixed, labels = mix(inputs, target, recipes={"audio": recipe}, config=config)
    across = labels[:, 0].sub(0.5).abs() < 0.01  # pairs of a loud and a soft noise
    expected = spectrogram(0.5 * sounds[0] + 0.5 * sounds[1])
    assert mixed["audio"][across].mean() == pytest.approx(float(expected.mean()), abs=0.02)


@pytest.mark.parametrize(("dim", "longest"), [(2, 20), (3, 12), (3, 32), (2, 1000)])
def test_masked_bands(dim: int, longest: int) -> None:
    torch.manual_seed(0)
    x = torch.ones(400, 1, 64, 32)
    masked = mask_band(x, dim=dim, longest=longest, fill=-7.0) == -7.0
    lines = masked.any(dim=5 - dim).squeeze(1)  # [B, size]
    assert torch.equal(lines, masked.all(dim=5 - dim).squeeze(1))  # whole rows or columns
    lengths = lines.sum(1)
    size = x.shape[dim]
    assert lengths.max() < min(longest, size) or longest > size
    assert lengths.max() >= min(longest, size) * 0.9 - 1
    assert lengths.float().mean() == pytest.approx(min(longest, size) / 2, rel=0.2)
    edges = lines.diff(dim=1).sum(1)
    assert (edges <= 2).all()  # one band
    assert len({tuple(row) for row in lines.tolist()}) > 20  # each clip its own


def test_nothing_is_masked_unless_asked_for() -> None:
    inputs, target = batch(4), torch.eye(4)
    same, labels = augment(inputs, target, recipes=BOTH, config=Augmentation())
    assert all(torch.equal(same[name], inputs[name]) for name in inputs)
    assert torch.equal(labels, target)


@pytest.mark.parametrize(("fill", "value"), [("mean", 0.0), ("zero", 5.0 / 6.0)])
def test_fill(fill: str, value: float) -> None:
    config = Augmentation(frequency_mask=32, fill=fill)  # type: ignore[arg-type]
    inputs = {"audio": torch.full((16, 1, 64, 32), 9.0)}
    masked, _ = augment(inputs, torch.eye(16), recipes=SOUND, config=config)
    found = masked["audio"][masked["audio"] != 9.0]
    assert len(found) and torch.allclose(found, torch.tensor(value))


@pytest.mark.parametrize(
    ("recipe", "value"),
    [
        (FbankConfig(), 0.47),  # MAViL's statistics and two deviations
        (FbankConfig(mean=-5.081, std=4.4849 / 2), 1.13),  # CAV-MAE's, and one
    ],
)
def test_cav_mae_masks_with_zeros_before_normalisation(recipe: FbankConfig, value: float) -> None:
    """The values that its file states."""
    path = Path(__file__).parents[2] / "configs" / "finetune" / "cav_mae_vggsound.yaml"
    assert f"+{value}" in path.read_text()
    config = read_file(path)[0].augment
    config = replace(config, mixup=None, noise=0.0, roll=False)
    x = {"audio": torch.full((8, 1, 1024, 128), 9.0)}
    masked, _ = augment(x, torch.eye(8), recipes={"audio": recipe}, config=config)
    assert masked["audio"].min() == pytest.approx(value, abs=0.005)


def test_noise_is_bounded_and_differs_in_level() -> None:
    torch.manual_seed(0)
    x = {"audio": torch.zeros(64, 1, 64, 32)}
    noisy, _ = augment(x, torch.eye(64), recipes=SOUND, config=Augmentation(noise=0.1))
    levels = noisy["audio"].amax(dim=(1, 2, 3))
    assert noisy["audio"].min() >= 0 and levels.max() <= 0.1
    assert levels.std() > 0.02


def test_roll_keeps_the_rows_in_their_circle() -> None:
    torch.manual_seed(0)
    x = torch.arange(64.0).view(1, 1, 64, 1).expand(32, 1, 64, 3)
    turned = roll(x)
    steps = turned.diff(dim=2)
    assert set(steps.unique().tolist()) <= {1.0, -63.0}
    assert len(turned[:, 0, 0, 0].unique()) > 10
    assert math.prod(turned.shape) == math.prod(x.shape)


def test_augmentation_follows_the_seed() -> None:
    config = Augmentation(mixup=Mixup(), frequency_mask=8, time_mask=8, noise=0.1, roll=True)
    runs = []
    for seed in (0, 0, 1):
        inputs = batch(8)
        torch.manual_seed(seed)
        runs.append(augment(inputs, torch.eye(8), recipes=BOTH, config=config)[0]["audio"])
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])

"""What a clip of the corpus promises: sound and picture are two views of the same events."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from avssl.data.corpora.files import decode_sound, write_mp4
from avssl.data.corpora.scenes.picture import make_picture
from avssl.data.corpora.scenes.scene import (
    CLASSES,
    FPS,
    LARGEST,
    RATE,
    SECONDS,
    SMALLEST,
    SPLITS,
    Scene,
    make_scene,
    pitch,
)
from avssl.data.corpora.scenes.sound import LENGTH, SAMPLE_RATE, make_sound

STRUCK = ("bounce", "bell", "drops", "string", "pop")


def scenes(name: str, count: int, split: str = "train") -> list[Scene]:
    label = CLASSES.index(name)
    return [make_scene(split, label + len(CLASSES) * i) for i in range(count)]


def onset_near(sound: np.ndarray, time: float) -> float:
    """Time in s of the steepest rise of the level within 80 ms of a time."""
    hop = SAMPLE_RATE // 200
    power = np.square(sound[: len(sound) // hop * hop]).reshape(-1, hop).mean(1)
    smooth = np.convolve(np.pad(power, 2, mode="edge"), np.ones(5) / 5, mode="valid")
    rise = np.diff(np.log(smooth + 1e-8))  # rise[i] lies between hops i and i + 1
    first = max(0, round((time - 0.08) * 200))
    window = rise[first : round((time + 0.08) * 200)]
    # the five-hop average makes a ramp of five hops, the middle of which is the onset
    ramp = np.convolve(np.pad(window, 2), np.ones(5), mode="valid")
    return (first + int(np.argmax(ramp)) + 1) * hop / SAMPLE_RATE


def brightest(sound: np.ndarray) -> float:
    """Frequency in Hz of the strongest component."""
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    return float(np.argmax(spectrum) * SAMPLE_RATE / len(sound))


def quiet(scene: Scene, **changes: object) -> Scene:
    """The scene in a dry room and fair weather before a flat, silent microphone."""
    microphone = dataclasses.replace(
        scene.microphone, level=1e-6, colour=(0.0,) * len(scene.microphone.colour)
    )
    weather = dataclasses.replace(scene.weather, rain=0.0, wind=0.0, night=0.0)
    return dataclasses.replace(scene, microphone=microphone, weather=weather, room=2.2, **changes)


@pytest.mark.parametrize("name", CLASSES)
def test_the_same_seed_gives_the_same_clip(name: str) -> None:
    first, again = (scenes(name, 1)[0] for _ in range(2))
    assert first.look == again.look and first.hits == again.hits and first.text == again.text
    assert np.array_equal(make_sound(first), make_sound(again))
    assert np.array_equal(make_picture(first), make_picture(again))


def test_seeds_splits_and_indices_give_other_scenes() -> None:
    found = {
        (make_scene(split, index, seed=seed).radius, make_scene(split, index, seed=seed).look.seed)
        for split in SPLITS
        for index in range(60)
        for seed in (0, 1)
    }
    assert len(found) == len(SPLITS) * 60 * 2


def test_labels_are_balanced_and_sizes_cover_their_range() -> None:
    sample = [make_scene("train", index) for index in range(160)]
    assert np.bincount([scene.label for scene in sample]).tolist() == [20] * 8
    radii = [scene.radius for scene in sample]
    assert min(radii) < 1.15 * SMALLEST and max(radii) > 0.87 * LARGEST


def test_pitch_spans_three_octaves() -> None:
    assert np.log2(pitch(SMALLEST) / pitch(LARGEST)) > 3


@pytest.mark.parametrize("name", STRUCK)
def test_sound_starts_when_the_hit_is_seen(name: str, tmp_path) -> None:
    """Decoded from the file, every clear hit has an onset within 30 ms of the scene's time."""
    checked = 0
    for scene in scenes(name, 4):
        scene = quiet(scene, breathy=0.0)
        write_mp4(
            tmp_path / "clip.mp4", make_picture(scene)[:2], make_sound(scene), fps=FPS, quality=30
        )
        sound = decode_sound(tmp_path / "clip.mp4")
        for position, hit in enumerate(scene.hits):
            before = [h for h in scene.hits[:position] if hit.time - h.time < 1.0]
            if hit.strength < 0.1 or any(h.strength > 0.6 * hit.strength for h in before):
                continue  # drowned in the tail of a louder one
            assert abs(onset_near(sound, hit.time) - hit.time) < 0.03, (scene.index, hit)
            checked += 1
        first = round((scene.hits[0].time - 0.03) * SAMPLE_RATE)
        if first > 800:
            assert np.abs(sound[:first]).max() < 0.02 * np.abs(sound).max()
    assert checked >= 4


def test_a_ball_is_on_the_ground_when_it_sounds() -> None:
    for scene in scenes("bounce", 10):
        for hit in scene.hits:
            assert scene.curves["y"][round(hit.time * RATE)] < 0.02


def test_impact_speed_is_loudness() -> None:
    """Between two impacts of one ball, strength falls with the restitution."""
    for scene in scenes("bounce", 20):
        first, second = scene.hits[:2]
        if first.strength < 1.0:
            assert second.strength / first.strength == pytest.approx(scene.numbers["restitution"])


@pytest.mark.parametrize("name", ["bell", "string", "rotor", "drops"])
def test_pitch_follows_size(name: str) -> None:
    for scene in scenes(name, 6):
        scene = quiet(scene, breathy=0.0, material=0.2)
        expected = [pitch(hit.radius) for hit in scene.hits] or [pitch(scene.radius)]
        heard = brightest(make_sound(scene))
        assert np.abs(np.log2(heard / np.array(expected))).min() < 0.35, (scene.radius, heard)


@pytest.mark.parametrize("name", CLASSES)
def test_distance_lowers_the_level(name: str) -> None:
    scene = quiet(scenes(name, 1)[0])
    near, far = (
        np.square(make_sound(dataclasses.replace(scene, distance=d))).mean() for d in (1.0, 1.6)
    )
    assert far < 0.5 * near


@pytest.mark.parametrize(
    ("name", "curve"), [("roll", "speed"), ("rotor", "rate"), ("whistle", "breath")]
)
def test_level_follows_the_motion(name: str, curve: str) -> None:
    """Within a clip, sound level and the curve that moves the picture rise and fall together."""
    scores = []
    for scene in scenes(name, 6):
        sound = make_sound(quiet(scene))
        level = np.sqrt(np.square(sound.reshape(12, -1)).mean(1))
        motion = scene.curves[curve][:-1].reshape(12, -1).mean(1)
        scores.append(np.corrcoef(level, motion)[0, 1])
    assert np.mean(scores) > 0.6, scores


@pytest.mark.parametrize("name", CLASSES)
def test_the_room_lights_up_with_the_sound(name: str) -> None:
    """The brightness of the frames follows the glow, whatever the class."""
    scores = []
    for scene in scenes(name, 4):
        frames = make_picture(scene).astype(np.float32).mean((1, 2, 3))
        scores.append(np.corrcoef(frames, scene.glow[:: RATE // FPS][: len(frames)])[0, 1])
    assert np.mean(scores) > 0.6


def test_a_bigger_body_covers_more_of_the_picture() -> None:
    scene = scenes("bell", 1)[0]
    look = dataclasses.replace(scene.look, noise=0.0, distractors=0)
    empty = make_picture(dataclasses.replace(scene, look=look, radius=0.001))[0].astype(int)
    covered = []
    for radius in (SMALLEST, 0.5 * (SMALLEST + LARGEST), LARGEST):
        frame = make_picture(dataclasses.replace(scene, look=look, radius=radius))[0].astype(int)
        covered.append((np.abs(frame - empty).sum(-1) > 40).mean())
    assert covered[0] < 0.6 * covered[1] < 0.6 * 0.8 * covered[2]


@pytest.mark.parametrize("name", CLASSES)
def test_levels_are_sane(name: str) -> None:
    for scene in scenes(name, 4):
        sound = make_sound(scene)
        assert sound.shape == (LENGTH,) == (int(SECONDS * SAMPLE_RATE),)
        assert sound.dtype == np.float32 and np.isfinite(sound).all()
        assert 0.03 < np.abs(sound).max() < 0.99


def test_weather_is_seen_and_heard() -> None:
    """Rain, wind and night change each its own band of the sound and its own look."""
    scene = quiet(scenes("bounce", 1)[0])
    calm = scene.weather
    bands = {"rain": (2500, 8000), "wind": (20, 300), "night": (4400, 4800)}
    fair_sound, fair_picture = make_sound(scene), make_picture(scene).astype(float)
    for name, (low, high) in bands.items():
        levels, pictures = [], []
        for strength in (0.3, 0.6, 1.0):
            weather = dataclasses.replace(calm, **{name: strength})
            worse = dataclasses.replace(scene, weather=weather)
            extra = np.fft.rfft(make_sound(worse) - fair_sound)
            frequency = np.fft.rfftfreq(LENGTH, 1 / SAMPLE_RATE)
            band = (frequency >= low) & (frequency <= high)
            levels.append(np.square(np.abs(extra[band])).sum())
            assert levels[-1] > 0.6 * np.square(np.abs(extra)).sum(), name
            pictures.append(np.abs(make_picture(worse) - fair_picture).mean())
        assert levels == sorted(levels) and levels[-1] > 4 * levels[0]
        assert pictures == sorted(pictures) and pictures[-1] > 2 * pictures[0] > 0


def test_weather_knows_nothing_of_the_class() -> None:
    sample = [make_scene("train", index) for index in range(400)]
    for name in ("rain", "wind", "night"):
        means = [
            np.mean([getattr(s.weather, name) for s in sample if s.label == label])
            for label in range(len(CLASSES))
        ]
        assert max(means) - min(means) < 0.35

"""What a clip of `talking` promises: sentences of the grammar, said and shown in step."""

# ruff: noqa: RUF001
from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from avssl.data.config import DataConfig
from avssl.data.corpora import ensure_corpus
from avssl.data.corpora.cache import CORPORA, find_corpus
from avssl.data.corpora.files import clip_path
from avssl.data.corpora.talking import clip as clips
from avssl.data.corpora.talking import speech
from avssl.data.corpora.talking.clip import Talk, make_talk
from avssl.data.corpora.talking.grammar import DIGITS, SLOTS, draw_sentences
from avssl.data.corpora.talking.picture import FPS, make_picture
from avssl.data.corpora.talking.pose import OPENING, PARTS, PRESS, ROUNDING, TUCK, WIDTH
from avssl.data.corpora.talking.speech import ACCENTS, MEN, WOMEN, Voice, speak
from avssl.data.corpora.talking.visemes import MPEG4, VISEMES, split_phone
from avssl.data.dataset import ClipDataset
from avssl.data.length_config import LengthsConfig, LipsConfig, TextConfig, WaveConfig
from avssl.data.manifest import SPLITS, Manifest
from avssl.data.media import read_clip_sound, read_pictures
from avssl.errors import UserError

pytest.importorskip("espeakng_loader")
RATE = 16000


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """12 clips, 4 of each split."""
    return Manifest.read(ensure_corpus("talking-12", tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def talks() -> list[Talk]:
    return [make_talk("train", index) for index in range(30)]


def level(sound: np.ndarray, frames: int) -> np.ndarray:
    """Loudness of each picture's 40 ms, [T]."""
    return np.log10(np.square(sound[: frames * 640]).reshape(frames, 640).mean(1) + 1e-5)


def correlation(a: np.ndarray, b: np.ndarray, *, widest: int = 6) -> np.ndarray:
    """Correlation of a[t] and b[t + lag] for lags -widest to widest."""
    a, b = (a - a.mean()) / a.std(), (b - b.mean()) / b.std()
    count = len(a)
    return np.array(
        [
            np.mean(a[max(0, -lag) : count - max(0, lag)] * b[max(0, lag) : count + min(0, lag)])
            for lag in range(-widest, widest + 1)
        ]
    )


def at(talk: Talk, part: int, is_one: Callable[[str], bool], before: float = 0.0) -> np.ndarray:
    """Strongest value of a part of the pose during each phone that `is_one` accepts."""
    values = []
    for phone in talk.phones:
        if phone.ipa and is_one(phone.ipa):
            first = int((phone.start - before) * FPS)
            values.append(talk.pose[first : int(phone.end * FPS) + 1, part].max())
    return np.array(values)


def test_sentences_follow_the_grammar_and_keep_to_their_split() -> None:
    rng = np.random.default_rng(0)
    said: dict[str, set[str]] = {}
    for split in SPLITS:
        clips = [draw_sentences(rng, split, "six") for _ in range(80)]
        assert all("six" in clip[0] for clip in clips)
        for sentence in (sentence for clip in clips for sentence in clip):
            said.setdefault(split, set()).add(" ".join(sentence))
            starts = [
                start
                for start in range(len(SLOTS))
                if all(word in SLOTS[start + k] for k, word in enumerate(sentence[: 6 - start]))
                and len(sentence) <= 6 - start
            ]
            assert starts and 3 <= len(sentence) <= 6, sentence
        whole = sum(len(clip) == 1 and len(clip[0]) == 6 for clip in clips)
        assert whole > 30 and any(len(clip) == 2 for clip in clips)


def test_nothing_said_in_one_split_is_a_part_of_what_another_says() -> None:
    """Word by word, over as many clips as the corpus has."""
    rng = np.random.default_rng(1)
    said = {
        split: {
            f" {' '.join(sentence)} "
            for index in range(count)
            for sentence in draw_sentences(rng, split, DIGITS[index % 10])
        }
        for split, count in find_corpus("talking")[1].items()
    }
    for a, b in itertools.permutations(said, 2):
        whole = "\n".join(said[b])
        assert not [text for text in said[a] if text in whole], (a, b)


def test_speakers_of_one_split_are_heard_in_no_other() -> None:
    sets = [set(MEN[split]) | set(WOMEN[split]) for split in SPLITS]
    assert sum(map(len, sets)) == len(set.union(*sets))
    for split in SPLITS:
        talk = make_talk(split, 3)
        accent, speaker = talk.voice.name.split("+")
        assert accent in ACCENTS and speaker in (MEN if talk.man else WOMEN)[split]


def test_the_viseme_table_is_the_standard_s() -> None:
    """Fourteen classes, and the examples that ISO/IEC 14496-2 names for them."""
    named = "p b m f v θ ð t d k ɡ tʃ dʒ ʃ s z n l ɹ ɑ e ɪ ɒ ʊ".split()
    numbers = [1] * 3 + [2] * 2 + [3] * 2 + [4] * 2 + [5] * 2 + [6] * 3 + [7] * 2 + [8] * 2
    assert [VISEMES[symbol] for symbol in named] == [*numbers, 9, 10, 11, 12, 13, 14]
    assert sorted(MPEG4) == list(range(1, 15))


@pytest.mark.parametrize("accent", ACCENTS)
def test_every_sound_of_the_grammar_has_a_viseme(accent: str) -> None:
    voice = Voice(f"{accent}+m1", speed=300, pitch=50, melody=50)
    for words in SLOTS:
        for text in (". ".join(words), " ".join(words)):
            _, phones = speak(text, voice, seed=0)
            assert sum(bool(phone.ipa) for phone in phones) >= len(words)
            for phone in phones:
                assert not phone.ipa or split_phone(phone.ipa)
    with pytest.raises(KeyError, match="without a viseme"):
        split_phone("ɮ")


def test_a_longer_vocal_tract_speaks_lower_and_as_fast() -> None:
    """Pitch and formants go down together, so that the spectrum is the same one, compressed."""
    heard = {}
    for tract in (0.9, 1.0, 1.15):
        voice = Voice("en-us+m1", speed=150, pitch=50, melody=50, tract=tract)
        sound, phones = speak("place red by k nine now", voice, seed=0)
        assert phones[-1].end == pytest.approx(len(sound) / speech.RATE, abs=1e-3)
        power = np.square(np.abs(np.fft.rfft(sound)))
        hertz = np.fft.rfftfreq(len(sound), 1 / speech.RATE)
        low = hertz < 1500  # the first formant and most of the second
        heard[tract] = (len(sound), (power * hertz)[low].sum() / power[low].sum())
    for tract in (0.9, 1.15):
        assert heard[tract][0] == pytest.approx(heard[1.0][0], rel=0.04)
        assert heard[tract][1] == pytest.approx(heard[1.0][1] / tract, rel=0.06)
    tracts = [make_talk("train", index).voice.tract for index in range(12)]
    assert 0.86 < min(tracts) < 0.95 < 1.05 < max(tracts) < 1.16


def test_a_is_read_as_a_letter_not_as_the_article(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        clips, "draw_sentences", lambda *_: [("bin", "red", "by", "a", "two", "now")]
    )
    for index in range(6):
        phones = [phone.ipa.strip("ˈˌ") for phone in make_talk("train", index).phones]
        assert {"eɪ", "eː"} & set(phones), phones


def test_a_clip_is_a_function_of_seed_split_and_index(talks: list[Talk]) -> None:
    again = make_talk("train", 5)
    assert np.array_equal(again.sound, talks[5].sound) and again.text == talks[5].text
    assert np.array_equal(again.pose, talks[5].pose)
    assert np.array_equal(
        make_picture(again.face, again.pose[:8]), make_picture(talks[5].face, talks[5].pose[:8])
    )
    others = [make_talk("train", 6), make_talk("val", 5), make_talk("train", 5, seed=1)]
    assert all(not np.array_equal(again.sound[:9600], other.sound[:9600]) for other in others)


def test_files_do_not_depend_on_who_renders(corpus: Manifest, tmp_path: Path) -> None:
    """The fixture's clips came from processes that had rendered others before."""
    for split, index in (("test", 3), ("train", 0)):
        CORPORA["talking"].render(tmp_path, split, index, seed=0)
        for suffix in (".wav", ".mp4", ".json"):
            one = clip_path(tmp_path, split, index).with_suffix(suffix)
            two = clip_path(corpus.root, split, index).with_suffix(suffix)
            assert one.read_bytes() == two.read_bytes()


def test_phone_times_are_those_of_the_sound(talks: list[Talk]) -> None:
    """Hissing lies above 3 kHz where an s is said to be, and not where a vowel is."""
    shares: dict[bool, list[float]] = {True: [], False: []}
    for talk in talks:
        for phone in talk.phones:
            hissing = phone.ipa == "s"
            if not hissing and "ˈ" not in phone.ipa:
                continue
            piece = talk.sound[int(phone.start * RATE) : int(phone.end * RATE)]
            power = np.square(np.abs(np.fft.rfft(piece)))
            high = np.fft.rfftfreq(len(piece), 1 / RATE) > 3000
            shares[hissing].append(power[high].sum() / power.sum())
    assert len(shares[True]) > 20
    assert np.mean(shares[True]) > 0.85 and np.mean(shares[False]) < 0.15


def test_lips_do_what_the_sounds_need(talks: list[Talk]) -> None:
    effort = {id(talk): talk.face.effort for talk in talks}
    press = np.concatenate([at(talk, PRESS, lambda ipa: ipa in "pbm", 0.06) for talk in talks])
    tuck = np.concatenate([at(talk, TUCK, lambda ipa: ipa in "fv") for talk in talks])
    wide = np.concatenate(
        [at(talk, OPENING, lambda ipa: ipa.startswith("ˈa")) / effort[id(talk)] for talk in talks]
    )
    assert press.min() > 0.6 and tuck.min() > 0.6 and wide.min() > 0.5
    rounded = np.concatenate([at(talk, ROUNDING, lambda ipa: "uː" in ipa) for talk in talks])
    spread = np.concatenate([at(talk, ROUNDING, lambda ipa: "iː" in ipa) for talk in talks])
    assert rounded.min() > 0.5 and np.mean(spread) < 0.3


def test_the_mouth_moves_smoothly_and_early(talks: list[Talk]) -> None:
    """Coarticulation: lips are half rounded before a rounded vowel begins."""
    early = []
    for talk in talks:
        assert talk.pose.shape == (talk.frames, len(PARTS))
        assert np.abs(np.diff(talk.pose[:, OPENING : WIDTH + 1], axis=0)).max() < 0.9
        assert np.abs(talk.pose[[0, -1], OPENING]).max() < 0.15  # at rest first and last
        for phone in talk.phones:
            if "uː" in phone.ipa:
                early.append(talk.pose[int((phone.start - 0.04) * FPS), ROUNDING])
    assert len(early) > 10 and np.mean(early) > 0.3


def test_opening_follows_the_vowels_and_the_sound(talks: list[Talk]) -> None:
    total, vowel = np.zeros(13), []
    for talk in talks:
        times = (np.arange(talk.frames) + 0.5) / FPS
        opened = np.zeros(talk.frames)
        for phone in talk.phones:
            if phone.ipa and VISEMES[split_phone(phone.ipa)[0]] in (10, 11):
                opened[(times >= phone.start) & (times < phone.end)] = 1
        vowel.append(opened)
        lags = correlation(level(talk.sound, talk.frames), talk.pose[:, OPENING])
        assert abs(int(lags.argmax()) - 6) <= 2
        total += lags / len(talks)
    assert total.argmax() == 6 and total[6] > 0.6
    opening = np.concatenate([talk.pose[:, OPENING] for talk in talks])
    assert np.corrcoef(np.concatenate(vowel), opening)[0, 1] > 0.5


def test_files_are_in_step(corpus: Manifest) -> None:
    """In the decoded files, how much the lips differ from rest follows how loud it is."""
    total = np.zeros(13)
    for clip in corpus.clips:
        assert clip.frames and clip.duration == clip.frames / FPS
        times = (np.arange(clip.frames) + 0.5) / FPS
        pictures = read_pictures(corpus.file(clip), clip, times).astype(np.float32)
        assert len(pictures) == clip.frames
        mouth = pictures.mean(-1)[:, 30:78, 22:74]
        change = np.abs(mouth - mouth[:2].mean(0)).mean((1, 2))
        sound = read_clip_sound(
            corpus.file(clip), clip, start=0.0, seconds=clip.duration, sample_rate=RATE
        )
        total += correlation(level(sound, clip.frames), change) / len(corpus.clips)
    assert abs(int(total.argmax()) - 6) <= 1 and total.max() > 0.4


def test_the_manifest_tells_what_is_said(corpus: Manifest) -> None:
    for clip in corpus.clips:
        said = json.loads(corpus.file(clip).with_suffix(".json").read_text(encoding="utf-8"))
        assert said["text"] == clip.text and clip.extra["voice"] == said["voice"]
        assert clip.label in (*DIGITS, "") and (not clip.label or clip.label in clip.text)
        assert (clip.label == "") == (clip.extra["sentences"] == "2")
        times = [time for _, start, end in said["phones"] for time in (start, end)]
        assert times == sorted(times) and 0.08 <= times[0] and times[-1] < clip.duration
        assert clip.extra["phones"].split() == [ipa for ipa, _, _ in said["phones"] if ipa]
    assert len({clip.text for clip in corpus.clips}) == len(corpus.clips)


def test_no_two_faces_are_alike(corpus: Manifest) -> None:
    first = [
        read_pictures(corpus.file(clip), clip, [0.02])[0].astype(float) for clip in corpus.clips
    ]
    for a in range(len(first)):
        for b in range(a):
            assert np.abs(first[a] - first[b]).mean() > 4


def test_clips_of_their_own_length_go_into_batches(corpus: Manifest) -> None:
    config = DataConfig(
        lengths=LengthsConfig(budget=400, longest=10.0, shortest=0.4, buckets=2),
        workers=0,
        inputs={"video": LipsConfig(size=88), "audio": WaveConfig(), "text": TextConfig()},
    )
    dataset = ClipDataset(corpus, config, split="train")
    assert len(dataset) == 4 and not dataset.left_out
    batch = dataset.collate([dataset[0, index] for index in range(4)])
    frames = [clip.frames for clip in dataset.clips[:4]]
    assert len(batch["frames"]) == sum(filter(None, frames))
    assert len(set(frames)) > 1


def test_without_espeak_a_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(UserError, match=r"espeakng_loader.*pip install 'avssl\[speech\]'"):
        ensure_corpus("talking-12", tmp_path)
    assert not list(tmp_path.iterdir())


def test_too_few_clips_are_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must have 12"):
        ensure_corpus("talking-8", tmp_path)

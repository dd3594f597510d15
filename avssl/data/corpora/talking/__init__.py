"""The corpus `talking`: a mouth that reads short sentences aloud, synthetic but in step."""

from __future__ import annotations

import json
from pathlib import Path

from avssl.data.corpora.corpus import Corpus
from avssl.data.corpora.files import clip_path, write_clip
from avssl.data.corpora.talking.clip import Talk, make_talk
from avssl.data.corpora.talking.picture import FPS, SIZE, make_picture
from avssl.data.corpora.talking.speech import loader
from avssl.data.manifest import Clip


class Talking(Corpus):
    """2,400 clips of 0.7 to 4.4 s."""

    name = "talking"
    version = 4
    clips = 2400
    parts = (10, 1, 1)
    step = 4
    clip_bytes = 160_000

    def check(self) -> None:
        """Speech needs espeak-ng."""
        loader()

    def render(self, root: Path, split: str, index: int, *, seed: int) -> None:
        """One clip, and beside it what is said when (json)."""
        talk = make_talk(split, index, seed=seed)
        path = clip_path(root, split, index)
        path.parent.mkdir(parents=True, exist_ok=True)
        said = json.dumps(_said(talk), ensure_ascii=False)
        path.with_suffix(".json").write_text(said, encoding="utf-8")
        write_clip(path, make_picture(talk.face, talk.pose), talk.sound, fps=FPS, quality=26)

    def row(self, root: Path, split: str, index: int, *, seed: int) -> Clip:
        """From the json beside the clip: to speak it once more takes longer."""
        path = clip_path(root, split, index)
        said = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        seconds = said["frames"] / FPS
        extra = ("voice", "sex", "speed", "pitch", "tract", "sentences")
        return Clip(
            path=path.relative_to(root).as_posix(),
            label=said["label"],
            text=said["text"],
            split=split,
            reader="pyav",  # for pictures this small faster than decord, see data/probe.py
            has_video=True,
            has_audio=True,
            duration=seconds,
            fps=float(FPS),
            frames=said["frames"],
            width=SIZE,
            height=SIZE,
            wav=path.with_suffix(".wav").relative_to(root).as_posix(),
            sound_duration=seconds,
            extra={name: str(said[name]) for name in extra}
            | {"phones": " ".join(ipa for ipa, _, _ in said["phones"] if ipa)},
        )

    def sheet(self, path: Path, *, seed: int) -> None:
        """Clips above their phones, the opening of the mouth and the sound."""
        from avssl.data.corpora.talking.sheet import contact_sheet

        self.check()
        contact_sheet(path, seed=seed)


def _said(talk: Talk) -> dict[str, object]:
    """What the json beside a clip holds; phone times in s."""
    return {
        "text": talk.text,
        "label": talk.label,
        "voice": talk.voice.name,
        "sex": "m" if talk.man else "f",
        "speed": talk.voice.speed,
        "pitch": talk.voice.pitch,
        "tract": round(talk.voice.tract, 3),
        "sentences": len(talk.sentences),
        "frames": talk.frames,
        "phones": [
            [phone.ipa, round(phone.start, 4), round(phone.end, 4)] for phone in talk.phones
        ],
    }

"""Finding out about one file by decoding all of it: streams, times, damage, and the right reader.

Letters: N pictures. decord and seeking give wrong pictures for some files without an error, so the
reader is chosen by comparing what it gives with what decoding from the start gives.
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from avssl.data.container import (
    MediaError,
    Source,
    audio_stream,
    is_wav,
    opened,
    rewound,
    video_stream,
)
from avssl.data.manifest import Clip
from avssl.data.pictures import READERS, converted, decord_times, shown_pictures
from avssl.data.shards import media_source
from avssl.data.sound import mono_samples, sound_frames
from avssl.data.stills import READER, SECONDS, SUFFIXES, read_still

_PRINT = (32, 16)  # pixels: width and height of the small pictures that are compared
_KEYFRAMES = 2  # keyframes around which a reader must prove itself
_FAR = 16.0  # grey levels: no scaler or colour conversion explains such a mean difference
_SAME_TIME = 0.001  # s: decord gives times in fp32
_SMALL = 200  # pixels, short side: below it PyAV reads up to twice as fast as decord, above slower
# containers whose index gives decord and seeking a chance; all others are decoded from the start
_SEEKABLE = ("mov,mp4", "matroska,webm")


@dataclasses.dataclass
class _Picture:
    """What decoding from the start showed."""

    times: np.ndarray  # s from the first picture [N]
    prints: np.ndarray  # uint8 [N, 16, 32, 3], upright
    duration: float
    fps: float
    width: int
    height: int
    rotation: int
    zero: float  # s, the container's own time of the first picture
    container: str
    plain: bool  # no packet is decoded without being shown (edit lists)
    keys: list[int]  # index of the pictures that are keyframes


def probe_clip(root: str | os.PathLike[str], clip: Clip) -> Clip:
    """The clip with its recorded columns filled; never raises for what is wrong with the file.

    Args:
        root: the manifest's folder.
        clip: a row; its `wav`, or a wav of the same name beside the file, replaces the sound. A
            still has no sound.
    """
    reasons: list[str] = []
    found: dict[str, object] = {"has_video": False, "has_audio": False, "reader": ""}
    try:
        path = media_source(Path(root) / clip.path, clip)
        if Path(clip.path).suffix.lower() in SUFFIXES:
            return _probe_still(path, clip)
        has_video, has_audio = _streams(path)
    except MediaError as error:
        return dataclasses.replace(clip, **found, reason=str(error))  # type: ignore[arg-type]
    zero: float | None = None
    if has_video:
        try:
            picture = _decode_pictures(path)
            zero = picture.zero
            found |= {
                "has_video": True,
                "reader": choose_reader(path, picture),
                "duration": picture.duration,
                "fps": picture.fps,
                "frames": len(picture.times),
                "width": picture.width,
                "height": picture.height,
                "rotation": picture.rotation,
            }
        except MediaError as error:
            reasons.append(f"picture: {error}")
    wav = clip.wav or _beside(Path(root), clip)
    if wav or is_wav(path):  # both are read by soundfile
        try:
            seconds = wav_seconds(Path(root) / wav if wav else path)
            found |= {"wav": wav, "has_audio": True, "sound_duration": seconds}
        except MediaError as error:
            reasons.append(f"sound: {error}")
    elif has_audio:
        try:
            begin, seconds = _decode_sound(path)
            found |= {"has_audio": True, "sound_duration": seconds}
            found["sound_offset"] = 0.0 if zero is None else begin - zero
        except MediaError as error:
            reasons.append(f"sound: {error}")
    if not found["has_video"] and found["has_audio"]:
        found["duration"] = found["sound_duration"]
    if not has_video and not has_audio and not wav:
        reasons.append("has neither picture nor sound")
    for name, value in found.items():
        if isinstance(value, float):
            found[name] = round(value, 6)  # as a manifest holds it: both give the same windows
    return dataclasses.replace(clip, **found, reason="; ".join(reasons))  # type: ignore[arg-type]


def _probe_still(path: Source, clip: Clip) -> Clip:
    """A picture's row: a clip of one picture.

    Raises MediaError when it cannot be read.
    """
    height, width = read_still(path).shape[:2]
    return dataclasses.replace(
        clip,
        has_video=True,
        has_audio=False,
        reader=READER,
        duration=SECONDS,
        fps=1 / SECONDS,
        frames=1,
        width=width,
        height=height,
        rotation=0,
        reason="",
    )


def choose_reader(path: Source, picture: _Picture) -> str:
    """The fastest reader that gives the pictures which decoding from the start gives."""
    if picture.container.startswith(_SEEKABLE):
        for name in reader_order(picture.width, picture.height):
            # hidden pictures confuse decord's count
            if (picture.plain or name != "decord") and _agrees(name, path, picture):
                return name
    return "pyav-linear"


def reader_order(width: int, height: int) -> tuple[str, str]:
    """Readers that seek, the faster one for this size of picture first."""
    return ("pyav", "decord") if min(width, height) < _SMALL else ("decord", "pyav")


def wav_seconds(path: Source) -> float:
    """Length of a wav, which is read to its end.

    Raises:
        MediaError: it is damaged, or holds no sample.
    """
    import soundfile

    try:
        with soundfile.SoundFile(rewound(path)) as file:
            count = sum(len(block) for block in file.blocks(1 << 16, dtype="float32"))
            if count == 0:
                raise MediaError("the wav holds no sample")
            if count != file.frames:
                raise MediaError(f"the wav ends after {count} of {file.frames} samples")
            return count / file.samplerate
    except soundfile.LibsndfileError as error:
        raise MediaError(f"the wav cannot be read ({error.error_string})") from None
    except OSError as error:
        raise MediaError(f"the wav cannot be read ({error.strerror})") from None


def _streams(path: Source) -> tuple[bool, bool]:
    if is_wav(path):
        return False, True
    with opened(path) as container:
        return video_stream(container) is not None, audio_stream(container) is not None


def _decode_pictures(path: Source) -> _Picture:
    times: list[float] = []
    prints: list[np.ndarray] = []
    with opened(path) as container:
        stream = video_stream(container)
        assert stream is not None
        stream.codec_context.options = {
            "err_detect": "explode"
        }  # damage is an error, not concealed
        promised = stream.frames
        width = height = rotation = 0
        zero = last = 0.0
        keys: list[int] = []
        for time, frame in shown_pictures(container):
            if frame.key_frame:
                keys.append(len(times))
            if not times:
                rotation = frame.rotation % 360
                upright = rotation % 180 == 0
                width, height = (frame.width, frame.height)[:: 1 if upright else -1]
                zero = time
            elif time - zero <= times[-1]:
                raise MediaError(f"picture {len(times)} is not later than the one before")
            last = float(frame.duration * (frame.time_base or 0))
            times.append(time - zero)
            prints.append(converted(frame, size=_PRINT, rotation=rotation))
        container_name = container.format.name
    if not times:
        raise MediaError("no picture could be decoded")
    packets, hidden = _count_packets(path)
    if len(times) < max(promised, packets) - hidden:
        raise MediaError(
            f"{len(times)} pictures of {max(promised, packets) - hidden} can be decoded"
        )
    span = times[-1] - times[0]
    step = span / (len(times) - 1) if len(times) > 1 else last or 1.0
    duration = times[-1] + (last if 0 < last < 10 * step else step)
    return _Picture(
        times=np.asarray(times),
        prints=np.stack(prints),
        duration=duration,
        fps=1 / step,
        width=width,
        height=height,
        rotation=rotation,
        zero=zero,
        container=container_name,
        plain=hidden == 0,
        keys=keys,
    )


def _count_packets(path: Source) -> tuple[int, int]:
    """Packets with a picture, and how many of them are decoded without being shown."""
    total = hidden = 0
    with opened(path) as container:
        for packet in container.demux(video_stream(container)):
            if packet.size:
                total += 1
                hidden += packet.is_discard
    return total, hidden


def _decode_sound(path: Source) -> tuple[float, float]:
    """The container's time of the first sample, and the length, in s; decodes everything."""
    begin: float | None = None
    end = 0.0
    with opened(path) as container:
        stream = audio_stream(container)
        assert stream is not None
        for time, frame in sound_frames(container, stream):
            begin = time if begin is None else begin
            end = time + frame.samples / frame.sample_rate
            if not np.isfinite(mono_samples(frame)).all():
                raise MediaError("damaged (samples that are not numbers)")
    if begin is None:
        raise MediaError("no sound could be decoded")
    return begin, end - begin


def _agrees(name: str, path: Source, picture: _Picture) -> bool:
    """Whether a reader gives the right pictures: a spread of them at once, and single ones.

    Seeking goes wrong next to keyframes (open groups of pictures, B-frames) and at the end.
    """
    last = len(picture.times) - 1
    inner = [key for key in picture.keys if 1 < key < last]
    chosen = [
        inner[len(inner) * (k + 1) // (_KEYFRAMES + 1)] for k in range(min(len(inner), _KEYFRAMES))
    ]
    single = {last, last // 2, *(key + step for key in chosen for step in (-2, -1, 0, 1))}
    groups = [np.unique(np.linspace(0, last, 8).astype(int)), *np.array(sorted(single))[:, None]]

    def read(index: np.ndarray) -> np.ndarray:
        return READERS[name](
            path,
            picture.times[index],
            size=_PRINT,
            rotation=picture.rotation,
            frames=len(picture.times),
        )

    try:
        # a reader must give the same bits in any order; decord's own scaler gives other bits
        # than PyAV's, so there the whole sequence is read and held against PyAV's first
        right = picture.prints  # [N, H, W, 3]
        if name == "decord":
            times = decord_times(path)
            if len(times) != last + 1 or np.abs(times - picture.times).max() > _SAME_TIME:
                return False
            right = read(np.arange(last + 1))
            if not _aligned(right, picture.prints):
                return False
        return all(np.array_equal(read(group), right[group]) for group in groups)
    except MediaError:
        return False


def _aligned(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two sequences [N, H, W, 3] differ least when they are not shifted."""
    shifts = range(-min(3, len(one) - 1), min(3, len(one) - 1) + 1)
    distance = {
        shift: np.mean(
            [
                np.abs(one[k].astype(np.int16) - other[k + shift]).mean()
                for k in range(max(0, -shift), len(one) - max(0, shift))
            ]
        )
        for shift in shifts
    }
    return bool(distance[0] <= min(distance.values()) and distance[0] < _FAR)


def _beside(root: Path, clip: Clip) -> str:
    """The wav of the same name, relative to the root; "" if there is none or it is the clip."""
    wav = sidecar(clip.path)
    return wav if wav != clip.path and (root / wav).is_file() else ""


def sidecar(path: str) -> str:
    """Where a wav lies that replaces the sound of the file at `path`."""
    return Path(path).with_suffix(".wav").as_posix()


def sidecars(paths: Sequence[str]) -> set[str]:
    """Wavs among the paths that lie beside a file of the same name and give its sound."""
    others = {
        str(Path(path).with_suffix("")) for path in paths if not path.lower().endswith(".wav")
    }
    return {
        path
        for path in paths
        if path.lower().endswith(".wav") and str(Path(path).with_suffix("")) in others
    }

"""Media made for the tests: pictures that carry their number, with a flash and a click together.

Letters: H W height and width of a picture in pixels, N samples.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from avssl.data.manifest import Manifest
from avssl.data.scan import folder_clips, scan_clips

WIDTH, HEIGHT = 320, 208  # above the size where decord is preferred
_BLOCK = 16  # pixels
_BITS = 8
FLASH = 50  # number of the picture that flashes
COUNT, RATE = 100, 25
CLICK = FLASH / RATE  # s
_MS = Fraction(1, 1000)


def picture(number: int) -> np.ndarray:
    """uint8 [H, W, 3]: bits of the number, their inverse below, and a bar that flashes."""
    image = np.full((HEIGHT, WIDTH, 3), 96, np.uint8)
    for bit in range(_BITS):
        value = 255 * (number >> bit & 1)
        column = slice((6 + bit) * _BLOCK, (7 + bit) * _BLOCK)
        image[_BLOCK : 3 * _BLOCK, column] = value
        image[3 * _BLOCK : 5 * _BLOCK, column] = 255 - value
    image[6 * _BLOCK :, :] = 255 if number == FLASH else 0
    image[:_BLOCK, :_BLOCK] = (255, 0, 0)  # the upper left corner
    return image


def number_in(image: np.ndarray) -> int:
    """The number that a picture of any size, also its centre crop, carries; -1 if unreadable."""
    height, width = image.shape[:2]
    whole = height * WIDTH / HEIGHT  # pixels: width before a crop
    gray = image.astype(np.float32).mean(2)

    def level(x: float, y: float) -> float:
        row, column = int(y / HEIGHT * height), int((width - whole) / 2 + x / WIDTH * whole)
        return float(gray[row - 1 : row + 2, column - 1 : column + 2].mean())

    number = 0
    for bit in range(_BITS):
        x = (6.5 + bit) * _BLOCK
        upper, lower = level(x, 2 * _BLOCK), level(x, 4 * _BLOCK)
        if abs(upper - lower) < 64:
            return -1
        number |= (upper > lower) << bit
    return number


def flashes(image: np.ndarray) -> bool:
    """Whether the bar at the bottom is white."""
    return bool(image[int(0.85 * image.shape[0]) :, image.shape[1] // 4 :].mean() > 128)


@dataclass
class Numbered:
    """A rendered file and what it shows when."""

    path: Path
    numbers: list[int]  # in the order shown
    times: list[float]  # s from the first picture
    click: float | None = None  # s from the first picture

    def shown_at(self, time: float) -> int:
        """Number of the last picture at or before a time."""
        return self.numbers[max(0, int(np.searchsorted(self.times, time + 1e-6, "right")) - 1)]


def click_track(rate: int, *, begin: float = 0.0, seconds: float = COUNT / RATE) -> np.ndarray:
    """float32 [N] from `begin` on the common clock: faint noise and a click of 2 ms."""
    noise = np.random.default_rng(0).standard_normal(round((seconds - begin) * rate)) * 1e-3
    at = round((CLICK - begin) * rate)
    noise[max(at, 0) : at + rate // 500] += 0.8
    return noise.astype(np.float32)


def write_media(
    path: Path,
    *,
    video: str | None = "libx264",
    audio: str | None = None,
    seconds: float = COUNT / RATE,
    stamps: list[int] | None = None,
    count: int = COUNT,
    sound_begin: float = 0.0,
    rate: int = 44100,
    layout: str = "stereo",
    pixels: str = "yuv420p",
    codec: dict[str, str] | None = None,
    size: tuple[int, int] | None = None,
    container: dict[str, str] | None = None,
) -> Path:
    """Encode numbered pictures and the click track; stamps are times of the pictures in ms."""
    with av.open(str(path), "w", options=container or {}) as out:
        streams = []
        if video:
            stream = out.add_stream(video, rate=RATE, options=codec or {})
            stream.width, stream.height = size or (WIDTH, HEIGHT)
            stream.pix_fmt = pixels
            if stamps:
                stream.codec_context.time_base = stream.time_base = _MS
            streams.append((stream, _frames(count, stamps, size)))
        if audio:
            sound = out.add_stream(audio, rate=rate, layout=layout)
            streams.append((sound, _sound(sound, rate, layout, sound_begin, seconds)))
        if len(streams) == 2:  # interleaved
            _mux_by_time(out, streams)
        else:
            for stream, frames in streams:
                for frame in frames:
                    out.mux(stream.encode(frame))
        for stream, _ in streams:
            out.mux(stream.encode())
    return path


def _frames(
    count: int, stamps: list[int] | None, size: tuple[int, int] | None
) -> Iterator[av.VideoFrame]:
    for number in range(count):
        image = picture(number)
        if size:
            image = np.asarray(image[: size[1], : size[0]])
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        if stamps:
            frame.pts, frame.time_base = stamps[number], _MS
        yield frame


def _sound(stream, rate: int, layout: str, begin: float, seconds: float) -> Iterator[av.AudioFrame]:  # type: ignore[no-untyped-def]
    mono = click_track(rate, begin=begin, seconds=seconds)
    # the click is in the left channel only
    channels = [mono, mono * 0] if layout == "stereo" else [mono]
    data = np.stack(channels)
    for at in range(0, data.shape[1], 1024):
        part = np.ascontiguousarray(data[:, at : at + 1024])
        frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=layout)
        frame.sample_rate = rate
        frame.time_base = Fraction(1, rate)
        frame.pts = at + round(begin * rate)
        yield frame


def _mux_by_time(out, streams) -> None:  # type: ignore[no-untyped-def]
    (video, frames), (audio, sounds) = streams
    sound = next(sounds, None)
    for number, frame in enumerate(frames):
        while sound is not None and float(sound.pts * sound.time_base) <= number / RATE:
            out.mux(audio.encode(sound))
            sound = next(sounds, None)
        out.mux(video.encode(frame))
    while sound is not None:
        out.mux(audio.encode(sound))
        sound = next(sounds, None)


def cut_copy(source: Path, target: Path, *, begin: float) -> Path:
    """What `ffmpeg -ss BEGIN -i SOURCE -c copy` does: packets from the keyframe before `begin`,
    hidden up to `begin` by an edit list."""
    with av.open(str(source)) as given, av.open(str(target), "w") as out:
        streams = {stream.index: out.add_stream_from_template(stream) for stream in given.streams}
        given.seek(int(begin * av.time_base), backward=True)
        for packet in given.demux():
            if packet.dts is None:
                continue
            shift = round(begin / packet.time_base)
            if packet.stream.type == "audio" and packet.pts < shift:
                continue
            packet.pts -= shift
            packet.dts -= shift
            packet.stream = streams[packet.stream.index]
            out.mux(packet)
    return target


def rotate_header(source: Path, target: Path, degrees: int) -> Path:
    """A copy whose display matrix asks for a rotation (clockwise, as phones write it)."""
    data = bytearray(source.read_bytes())
    at = data.find(b"tkhd") + 4 + 4 + 20 + 8 + 8
    one = 0x10000
    a, b, c, d = {90: (0, one, -one, 0), 180: (-one, 0, 0, -one), 270: (0, -one, one, 0)}[degrees]
    struct.pack_into(">9i", data, at, a, b, 0, c, d, 0, 0, 0, 0x40000000)
    target.write_bytes(data)
    return target


def _h264(path: Path, **options: object) -> Path:
    return write_media(
        path,
        audio="aac",
        codec={
            "g": "30",
            "bf": "2",
            "preset": "ultrafast",
            "crf": "20",
            "x264-params": "bframes=2",
        },
        **options,  # type: ignore[arg-type]
    )


REGULAR = [number / RATE for number in range(COUNT)]


def _make(name: str, folder: Path) -> Numbered:
    numbers = list(range(COUNT))
    if name == "h264.mp4":
        return Numbered(_h264(folder / name), numbers, REGULAR, CLICK)
    if name == "h264.mkv":
        return Numbered(_h264(folder / name), numbers, REGULAR, CLICK)
    if name == "hevc.mp4":
        options = {"preset": "ultrafast", "x265-params": "log-level=none:keyint=30:bframes=2"}
        path = write_media(folder / name, video="libx265", audio="aac", codec=options)
        return Numbered(path, numbers, REGULAR, CLICK)
    if name == "vp9.webm":
        options = {"deadline": "realtime", "cpu-used": "8", "g": "30", "lag-in-frames": "10"}
        path = write_media(
            folder / name, video="libvpx-vp9", audio="libopus", rate=48000, codec=options
        )
        return Numbered(path, numbers, REGULAR, CLICK)
    if name == "mpeg4.avi":
        options = {"g": "12", "bf": "2", "qscale": "4"}
        path = write_media(folder / name, video="mpeg4", audio="pcm_s16le", codec=options)
        return Numbered(path, numbers, REGULAR, CLICK)
    if name == "mpeg1.mpg":
        options = {"g": "12", "bf": "2", "qscale": "4"}
        path = write_media(folder / name, video="mpeg1video", audio="mp2", codec=options)
        return Numbered(path, numbers, REGULAR, CLICK)
    if name == "cut.mp4":
        # keyframes at 0, 30, 60, 90: the cut begins between two
        path = cut_copy(_h264(folder.parent / "whole.mp4"), folder / name, begin=41 / RATE)
        shown = numbers[41:]
        times = [number / RATE - 41 / RATE for number in shown]
        return Numbered(path, shown, times, CLICK - 41 / RATE)
    if name in ("vfr.mp4", "vfr.mkv"):
        gaps = np.random.default_rng(1).choice([20, 33, 40, 80, 200], COUNT - 1)
        stamps = [0, *np.cumsum(gaps).tolist()]
        path = write_media(folder / name, stamps=stamps, codec={"g": "30", "bf": "2"})
        return Numbered(path, numbers, [stamp / 1000 for stamp in stamps])
    if name in ("early.mp4", "early.mkv"):  # the sound begins before the picture
        stamps = [round(1000 * time) + 440 for time in REGULAR]
        path = write_media(folder / name, audio="aac", stamps=stamps, codec={"g": "30"})
        return Numbered(path, numbers, REGULAR, CLICK - 0.44)
    if name in ("late.mp4", "late.mkv"):
        return Numbered(_h264(folder / name, sound_begin=0.62), numbers, REGULAR, CLICK)
    raise ValueError(name)


NAMES = (
    "h264.mp4 h264.mkv hevc.mp4 vp9.webm mpeg4.avi mpeg1.mpg cut.mp4 vfr.mp4 vfr.mkv "
    "late.mp4 late.mkv"
).split()


@pytest.fixture(scope="session")
def numbered_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the numbered files."""
    return tmp_path_factory.mktemp("numbered")


@pytest.fixture(scope="session")
def numbered(numbered_folder: Path) -> Callable[[str], Numbered]:
    """Numbered files by name, each rendered once."""
    made: dict[str, Numbered] = {}

    def get(name: str) -> Numbered:
        if name not in made:
            made[name] = _make(name, numbered_folder)
        return made[name]

    return get


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Ten clips of 1.2 s in two classes; decord reads even ones, PyAV odd ones."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(10):
        path = folder / ("cat", "dog")[number % 2] / f"{number}.mp4"
        path.parent.mkdir(exist_ok=True)
        write_media(path, audio="aac", count=30, seconds=1.2, codec={"g": "10"})
    clips = scan_clips(folder, folder_clips(folder, folder), workers=1)
    readers = ("decord", "pyav")
    return Manifest(
        folder,
        [replace(clip, split="train", reader=readers[row % 2]) for row, clip in enumerate(clips)],
    )


def _fixture(name: str, value: object) -> None:
    globals()[name + "_fixture"] = pytest.fixture(scope="session", name=name)(lambda: value)


# test modules cannot import this file, so its helpers come as fixtures
for _helper in (number_in, flashes, write_media, cut_copy, rotate_header, picture, click_track):
    _fixture(_helper.__name__, _helper)

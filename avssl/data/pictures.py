"""Pictures of a clip at given times, through decord or PyAV; both give the same upright frames.

Letters: K pictures, H W height and width in pixels. Times are seconds from the first picture shown.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from avssl.data import stills
from avssl.data.container import MediaError, Source, opened, packets, rewound, video_stream

if TYPE_CHECKING:
    import av
    from av.video.reformatter import VideoReformatter

# s: a time this close before a picture counts as its own (decord gives times in fp32)
EARLY = 1e-4

# reader(path, times, size=(width, height), rotation=, frames=) -> uint8 [K, H, W, 3]
Reader = Callable[..., np.ndarray]
Shown = tuple[float, "av.VideoFrame"]  # time in s, picture

# pixels: for these widths decord 0.6 takes its own row padding for pixels and raises
DECORD_REFUSES = frozenset({16, 24, 48, 72})

_SEEK_FROM = 1.5  # s: below it, decoding from the start is as fast as seeking

# s: with B-frames a seek may land on the keyframe after the wanted time; then it starts earlier
_MARGINS = (0.0, 1.0)


class _TooLate(Exception):
    """The first picture after a seek is later than the wanted one."""


def decord_pictures(
    path: Source,
    times: Sequence[float] | np.ndarray,
    *,
    size: tuple[int, int],
    rotation: int = 0,
    frames: int | None = None,
) -> np.ndarray:
    """Read with decord, which seeks, resizes while decoding and turns pictures upright itself.

    Args:
        path: the file, or a member of a tar. A file is opened here, in the process that reads, and
            closed again.
        times: K times, in any order.
        size: upright width and height of the result.
        rotation: not needed; part of the common interface.
        frames: number of pictures the manifest promises.

    Returns:
        uint8 RGB [K, H, W, 3]: for each time the last picture shown at or before it.

    Raises:
        MediaError: the file cannot be read, or holds another number of pictures.
    """
    del rotation
    reader = _open_decord(path, size)
    if frames is not None and len(reader) != frames:
        raise MediaError(
            f"holds {len(reader)} pictures, the manifest promises {frames}: scan again"
        )
    index = _shown(_starts(reader), np.asarray(times))  # [K]
    # repeats are decoded once
    unique, inverse = np.unique(index, return_inverse=True)
    with _decord("decoding failed"):
        pictures: np.ndarray = reader.get_batch(unique.tolist()).asnumpy()
    if pictures.shape != (len(unique), size[1], size[0], 3):
        raise MediaError(f"decoding gave the shape {pictures.shape}")
    if len(unique) == len(index) and (inverse == np.arange(len(index))).all():
        return pictures
    return pictures[inverse.reshape(-1)]  # [K, H, W, 3]


def pyav_pictures(
    path: Source,
    times: Sequence[float] | np.ndarray,
    *,
    size: tuple[int, int],
    rotation: int = 0,
    frames: int | None = None,
) -> np.ndarray:
    """Read with PyAV from the keyframe before the earliest time. Interface: `decord_pictures`.

    Only for files whose scan has shown that seeking in them can be trusted.
    """
    wanted = np.asarray(times)
    if wanted.min() < _SEEK_FROM:
        return linear_pictures(path, times, size=size, rotation=rotation, frames=frames)
    for margin in _MARGINS:
        with opened(path) as container:
            stream = _prepared_stream(container)
            base = float(stream.time_base or 1)
            zero = (stream.start_time or 0) * base
            target = max(zero + float(wanted.min()) - margin, zero)
            container.seek(int(target / base), stream=stream, backward=True)
            shown = ((time - zero, frame) for time, frame in _timed(container, stream))
            try:
                result, complete = _pick(shown, wanted, size=size, rotation=rotation)
            except _TooLate:
                continue
        if complete:
            return result
        break
    return linear_pictures(path, times, size=size, rotation=rotation, frames=frames)


def linear_pictures(
    path: Source,
    times: Sequence[float] | np.ndarray,
    *,
    size: tuple[int, int],
    rotation: int = 0,
    frames: int | None = None,
) -> np.ndarray:
    """Read with PyAV from the beginning, right where seeking lies. Interface: `decord_pictures`."""
    count = 0
    zero: float | None = None

    def shown() -> Iterator[Shown]:
        nonlocal count, zero
        for time, frame in _timed(container, stream):
            zero = time if zero is None else zero
            count += 1
            yield time - zero, frame

    with opened(path) as container:
        stream = _prepared_stream(container)
        result, complete = _pick(shown(), np.asarray(times), size=size, rotation=rotation)
    if not complete and frames is not None and count != frames:
        raise MediaError(f"holds {count} pictures, the manifest promises {frames}: scan again")
    return result


READERS: dict[str, Reader] = {
    "decord": decord_pictures,
    "pyav": pyav_pictures,
    "pyav-linear": linear_pictures,
    stills.READER: stills.still_pictures,
}


def shown_pictures(container: "av.container.InputContainer") -> Iterator[Shown]:
    """Every picture in the order shown, with its time by the container's clock; from the start.

    Raises:
        MediaError: a packet or picture is damaged, or a picture has no time.
    """
    return _timed(container, _prepared_stream(container))


def converted(
    frame: "av.VideoFrame",
    *,
    size: tuple[int, int],
    rotation: int,
    scaler: "VideoReformatter | None" = None,
) -> np.ndarray:
    """uint8 RGB [H, W, 3] of the upright size (width, height); reuse the scaler between frames."""
    from av.video.reformatter import VideoReformatter

    width, height = size if rotation % 180 == 0 else (size[1], size[0])
    scaled = (scaler or VideoReformatter()).reformat(
        frame,
        width=width,
        height=height,
        format="rgb24",
        interpolation="BICUBIC",
        **_one_thread(),
    )
    picture = scaled.to_ndarray()  # [H, W, 3], or [W, H, 3] lying on its side
    return np.rot90(picture, rotation // 90) if rotation else picture


@functools.cache
def _one_thread() -> dict[str, int]:
    """From version 17 on PyAV scales with a thread per core: ten times slower for small ones."""
    import av

    return {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}


def decord_times(path: Source) -> np.ndarray:
    """The times that decord gives the pictures, float64 [N], in s from the first."""
    return _starts(_open_decord(path, (32, 32)))


@contextmanager
def _decord(what: str) -> Iterator[None]:
    """Around calls of decord alone, whose several error classes all mean that the file is bad."""
    try:
        yield
    except Exception as error:  # DECORDError, RuntimeError and others
        raise MediaError(f"{what} ({_first_line(error)})") from None


def _starts(reader) -> np.ndarray:  # type: ignore[no-untyped-def]
    """When each picture starts, float64 [N], in s from the first."""
    with _decord("decoding failed"):
        times = reader.get_frame_timestamp(range(len(reader)))  # [N, 2]: start and end
    starts = np.asarray(times)[:, 0].astype(np.float64)
    return starts - starts[0]


def _open_decord(path: Source, size: tuple[int, int]):  # type: ignore[no-untyped-def]
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    try:
        file = rewound(path)
    except OSError as error:
        raise MediaError(f"cannot be read ({error.strerror})") from None
    with _decord("decord cannot open it"):
        reader = decord.VideoReader(
            file, ctx=decord.cpu(0), width=size[0], height=size[1], num_threads=1
        )
    if len(reader) == 0:
        raise MediaError("holds no picture")
    return reader


def _prepared_stream(container: "av.container.InputContainer") -> "av.VideoStream":
    stream = video_stream(container)
    if stream is None:
        raise MediaError("has no picture")
    stream.codec_context.thread_count = 1
    return stream


def _timed(container: "av.container.InputContainer", stream: "av.VideoStream") -> Iterator[Shown]:
    """(time by the container's clock in s, frame) in the order shown, from where it stands."""
    base = float(stream.time_base or 1)
    # AVI stores one time per chunk in decoding order: the k-th picture shown has the k-th of them
    chunks: list[int] | None = [] if container.format.name == "avi" else None
    count = 0
    for packet in packets(container, stream):
        if chunks is not None and packet.size and packet.dts is not None:
            chunks.append(packet.dts)
        for frame in packet.decode():
            if frame.is_corrupt:
                raise MediaError(f"damaged (picture {count} is corrupt)")
            stamp = chunks[min(count, len(chunks) - 1)] if chunks else frame.pts
            if stamp is None:
                raise MediaError(f"picture {count} has no time")
            count += 1
            yield stamp * base, frame


def _pick(
    shown: Iterator[Shown],
    times: np.ndarray,
    *,
    size: tuple[int, int],
    rotation: int,
) -> tuple[np.ndarray, bool]:
    """uint8 [K, H, W, 3], and whether a picture after the last time was seen."""
    from av.video.reformatter import VideoReformatter

    result = np.empty((len(times), size[1], size[0], 3), np.uint8)  # [K, H, W, 3]
    order = np.argsort(times, kind="stable")
    wanted: list[float] = (times[order] + EARLY).tolist()
    filled, count = 0, len(wanted)
    previous: av.VideoFrame | None = None
    scaler = VideoReformatter()
    for time, frame in shown:
        if previous is None:
            if time > wanted[0] and time > EARLY:
                raise _TooLate
        elif time > wanted[filled]:  # the previous picture was the last one shown by then
            until = filled + 1
            while until < count and time > wanted[until]:
                until += 1
            result[order[filled:until]] = converted(
                previous, size=size, rotation=rotation, scaler=scaler
            )
            filled = until
            if filled == count:
                return result, True
        previous = frame
    if previous is None:
        raise MediaError("no picture could be decoded")
    result[order[filled:]] = converted(previous, size=size, rotation=rotation, scaler=scaler)
    return result, False


def _shown(starts: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Index of the picture shown at each time: int [K]."""
    index = np.searchsorted(starts, times + EARLY, side="right") - 1
    return np.clip(index, 0, len(starts) - 1)


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0].rsplit("] ", 1)[-1][:160] if text else type(error).__name__

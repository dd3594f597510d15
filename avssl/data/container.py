"""Opening media containers with PyAV: which streams count, and what makes a file bad."""

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import av


class MediaError(Exception):
    """Why a file, or one stream of it, cannot be used: one clause without the file's name."""


class Member(io.BytesIO):
    """A file inside a tar, in memory.

    Attributes:
        name: path of the tar, a slash, and its name there.
    """

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


Source = str | os.PathLike[str] | Member  # what readers take


def rewound(source: Source) -> str | Member:
    """A member from its beginning; a path as an absolute one, for a name with a colon or a dash is
    a file, not an URL or an option.

    Raises MediaError when it is empty, OSError when there is no such file.
    """
    if isinstance(source, Member):
        source.seek(0)
        size = source.getbuffer().nbytes
    else:
        source = os.path.abspath(source)
        size = os.path.getsize(source)
    if size == 0:
        raise MediaError("the file is empty")
    return source


def is_wav(source: Source) -> bool:
    """Whether a file or member is a wav, by its name."""
    name = source.name if isinstance(source, Member) else os.fspath(source)
    return name.lower().endswith(".wav")


@contextmanager
def opened(source: Source) -> Iterator["av.container.InputContainer"]:
    """A container that is closed in any case (an open one leaks); FFmpeg's errors as MediaError.

    Only local files are opened, also by what a playlist inside the file names.
    """
    import av

    try:
        with av.open(
            rewound(source), "r", metadata_errors="ignore", options={"protocol_whitelist": "file"}
        ) as container:
            yield container
    except av.error.FFmpegError as error:
        if error.errno == errno.ENOSPC:
            raise  # no fault of the file
        raise MediaError(f"damaged or not a media file ({error.strerror})") from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise MediaError(f"cannot be read ({error.strerror})") from None
    except (ValueError, IndexError, EOFError) as error:
        raise MediaError(f"damaged ({error})") from None


def video_stream(container: "av.container.InputContainer") -> "av.VideoStream | None":
    """The stream that holds the picture (FFmpeg's own choice); cover art is none."""
    from av.stream import Disposition

    streams = [
        stream
        for stream in container.streams.video
        if not stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails)
        and stream.codec_context is not None
    ]
    best = container.streams.best("video")
    return best if best in streams else streams[0] if streams else None


def audio_stream(container: "av.container.InputContainer") -> "av.AudioStream | None":
    """The stream that holds the sound (FFmpeg's own choice)."""
    streams = [stream for stream in container.streams.audio if stream.codec_context is not None]
    best = container.streams.best("audio")
    return best if best in streams else streams[0] if streams else None


def packets(
    container: "av.container.InputContainer", stream: "av.VideoStream | av.AudioStream"
) -> Iterator["av.Packet[Any]"]:
    """Packets of one stream, the empty flushing one last.

    Raises:
        MediaError: a packet is marked as corrupt.
    """
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise MediaError("damaged (corrupt packet)")
        yield packet

"""Sound of a clip between two times: the wav beside it through soundfile, else PyAV.

Letters: C channels, N samples, M samples of a part of the result, P taps of a filter.
Channels are averaged (FFmpeg's own down-mix gives 0.707 (L+R)).
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from avssl.data.container import MediaError, Source, audio_stream, is_wav, opened, packets, rewound

if TYPE_CHECKING:
    import av
    from torch import Tensor

_MARGIN = 0.05  # s around the wanted stretch, for the resampling filter
_SEEK_FROM = 10.0  # s: below it, decoding from the start is as fast as seeking
_PREROLL = 1.0  # s decoded and dropped after a seek: codecs need some packets to settle
_RATES = (1000, 1_000_000)  # Hz of files: others are damage
_PHASES = 1000  # of a table of filters, which grows with their square
_LOBES, _ROLLOFF = 6, 0.99  # of the filter: zeros to either side, and share of the band kept
_AT_ONCE = 2**18  # taps worked out at once
_GAP = 0.01  # s: packets that are further from where the last one ended are put where they belong


def read_sound(
    path: Source,
    *,
    start: float,
    seconds: float,
    sample_rate: int,
    offset: float = 0.0,
) -> np.ndarray:
    """Mono sound from `start` on, in step with the picture.

    Args:
        path: a wav (read by soundfile) or any container (read by PyAV), or such a member of a tar.
        start: s from the first picture; `seconds`: length.
        sample_rate: Hz of the result.
        offset: s from the first picture to the first sample of the sound.

    Returns:
        float32 [N], N = round(seconds * sample_rate), silence where there is no sound.

    Raises:
        MediaError: the sound cannot be read.
    """
    read = _read_wav if is_wav(path) else _read_container
    return _resampled(
        lambda window: read(path, window),
        start=start - offset,
        seconds=seconds,
        sample_rate=sample_rate,
    )


# Given the source's sample rate, the first wanted sample and their number.
Window = Callable[[int], tuple[int, int]]


def _resampled(
    read: Callable[[Window], tuple[np.ndarray, int]],
    *,
    start: float,
    seconds: float,
    sample_rate: int,
) -> np.ndarray:
    first, count = round(start * sample_rate), round(seconds * sample_rate)

    def window(rate: int) -> tuple[int, int]:
        if rate == sample_rate:
            return first, count
        if not _RATES[0] <= rate <= _RATES[1]:
            raise MediaError(f"its sound is said to have {rate} samples a second")
        # begin where a sample of the source and one of the result fall on the same instant
        step, out_step = _steps(rate, sample_rate)
        begin = math.floor((first - _MARGIN * sample_rate) / out_step) * step
        end = math.ceil((first + count + _MARGIN * sample_rate) / out_step) * step
        return begin, end - begin

    sound, rate = read(window)  # [N'] at the source's rate
    if not np.isfinite(sound).all():
        raise MediaError("its sound holds samples that are no numbers")
    if rate == sample_rate:
        return sound
    step, out_step = _steps(rate, sample_rate)
    begin = window(rate)[0] // step * out_step
    import torch

    resampled = resampler(rate, sample_rate)(torch.from_numpy(sound)).numpy()
    return np.ascontiguousarray(resampled[first - begin : first - begin + count])  # [N]


def _steps(rate: int, sample_rate: int) -> tuple[int, int]:
    divisor = math.gcd(rate, sample_rate)
    return rate // divisor, sample_rate // divisor


@functools.lru_cache(maxsize=16)
def resampler(rate: int, sample_rate: int) -> Callable[[Any], Any]:
    """What brings float32 [..., N] from `rate` to `sample_rate` (Hz)."""
    if max(_steps(rate, sample_rate)) > _PHASES:
        return functools.partial(_by_formula, rate=rate, sample_rate=sample_rate)
    import torchaudio

    return torchaudio.transforms.Resample(
        rate, sample_rate, lowpass_filter_width=_LOBES, rolloff=_ROLLOFF
    )


def _by_formula(wave: "Tensor", *, rate: int, sample_rate: int) -> "Tensor":
    """What torchaudio's windowed sinc gives, without a table of its filter at every phase.

    16001 Hz -> 16000 Hz has 16000 phases, whose filters would take gigabytes.
    """
    import torch
    import torch.nn.functional as F

    band = min(rate, sample_rate) * _ROLLOFF  # zeros of the filter a second
    reach = math.ceil(_LOBES * rate / band)  # samples to either side
    padded = F.pad(wave, (reach, reach + 1))
    around = torch.arange(-reach, reach + 2)  # [P] samples
    rows = max(1, _AT_ONCE // len(around))
    total = math.ceil(wave.shape[-1] * sample_rate / rate)
    parts = []
    for first in range(0, total, rows):
        at = torch.arange(first, min(first + rows, total)) * rate  # [M] in 1 / sample_rate samples
        sample, rest = at // sample_rate, at % sample_rate
        away = (around - (rest.double() / sample_rate)[:, None]) * (band / rate)  # [M, P] zeros
        shape = torch.cos(away.clamp(-_LOBES, _LOBES) * (math.pi / _LOBES / 2)) ** 2
        taps = (torch.sinc(away) * shape * (band / rate)).to(wave)  # [M, P]
        parts.append((padded[..., sample[:, None] + around + reach] * taps).sum(-1))  # [..., M]
    return torch.cat(parts, -1) if parts else wave[..., :0]


def _read_wav(path: Source, window: Window) -> tuple[np.ndarray, int]:
    import soundfile

    try:
        with soundfile.SoundFile(rewound(path)) as file:
            if file.frames == 0:
                raise MediaError("the wav holds no sample")
            begin, count = window(file.samplerate)
            skip, stop = max(begin, 0), min(begin + count, file.frames)
            part = np.zeros((0, file.channels), np.float32)
            if stop > skip:
                file.seek(skip)
                part = file.read(stop - skip, dtype="float32", always_2d=True)  # [N', C]
                if len(part) != stop - skip:
                    raise MediaError(
                        f"the wav ends after {skip + len(part)} of {file.frames} samples"
                    )
            mono = part[:, 0] if file.channels == 1 else part.mean(1)
            if len(mono) == count:
                return mono, file.samplerate
            sound = np.zeros(count, np.float32)  # [N]
            sound[skip - begin : skip - begin + len(mono)] = mono
            return sound, file.samplerate
    except soundfile.LibsndfileError as error:
        raise MediaError(f"the wav cannot be read ({error.error_string})") from None
    except OSError as error:
        raise MediaError(f"the wav cannot be read ({error.strerror})") from None


def _read_container(path: Source, window: Window) -> tuple[np.ndarray, int]:
    with opened(path) as container:
        stream = audio_stream(container)
        if stream is None:
            raise MediaError("has no sound")
        stream.codec_context.thread_count = 1
        frames = sound_frames(container, stream)
        zero, frame = next(frames, (None, None))
        if frame is None or zero is None:
            raise MediaError("no sound could be decoded")
        rate = frame.sample_rate
        begin, count = window(rate)
        sound = np.zeros(count, np.float32)  # [N]
        if begin / rate > _SEEK_FROM:
            target = zero + begin / rate - _PREROLL
            container.seek(int(target / float(stream.time_base or 1)), stream=stream, backward=True)
            frames = sound_frames(container, stream)
            time, frame = next(frames, (None, None))
            settled = time is not None and time <= zero + begin / rate - _PREROLL / 4
            if frame is None or time is None or not settled:  # seeking is of no use: from the start
                container.seek(0)
                frames = sound_frames(container, stream)
                time, frame = next(frames, (zero, frame))
        else:
            time = zero
        while frame is not None and time is not None:
            if frame.sample_rate != rate:
                raise MediaError("the sample rate changes within the sound")
            position = round((time - zero) * rate) - begin
            if position >= count:
                break
            mono = mono_samples(frame)  # [N']
            low, high = max(position, 0), min(position + len(mono), count)
            if high > low:
                sound[low:high] = mono[low - position : high - position]
            time, frame = next(frames, (None, None))
        return sound, rate


def sound_frames(
    container: "av.container.InputContainer", stream: "av.AudioStream"
) -> Iterator[tuple[float, "av.AudioFrame"]]:
    """(time in s, frame): small jitter of the container's rounding is smoothed away.

    Raises:
        MediaError: a packet is damaged.
    """
    ends: float | None = None
    for packet in packets(container, stream):
        for frame in cast("list[av.AudioFrame]", packet.decode()):
            if frame.samples == 0:
                continue
            time = frame.time if frame.time is not None else ends
            if time is None:
                time = 0.0
            if ends is not None and abs(time - ends) < _GAP:
                time = ends
            ends = time + frame.samples / frame.sample_rate
            yield time, frame


def mono_samples(frame: "av.AudioFrame") -> np.ndarray:
    """Mean of the channels, float32 [N], full scale 1."""
    samples = frame.to_ndarray()  # [C, N], or [1, N * C] when packed
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T  # [C, N]
    scaled: np.ndarray
    if samples.dtype == np.uint8:
        scaled = (samples.astype(np.float32) - 128) / 128
    elif samples.dtype.kind == "i":
        scaled = samples.astype(np.float32) / float(2 ** (8 * samples.dtype.itemsize - 1))
    else:
        scaled = samples.astype(np.float32, copy=False)
    return scaled[0] if len(scaled) == 1 else scaled.mean(0)

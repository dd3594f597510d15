"""Stills: picture files, read with Pillow as clips of one picture that is shown for a second.

Letters: T pictures, K times, H W height and width in pixels.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from avssl.data.container import MediaError, Source, rewound

READER = "pillow"
SECONDS = 1.0  # a still's length as a clip
SUFFIXES = frozenset(".jpg .jpeg .png .webp .bmp .tif .tiff".split())
NARROWEST = 50  # times as wide as high, or as high as wide
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")  # others run programs, or name files


def read_still(source: Source) -> np.ndarray:
    """A still, upright as its EXIF tag says: uint8 RGB [H, W, 3].

    Raises:
        MediaError: it is damaged, no picture, or too narrow or too large for one.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(rewound(source), formats=_FORMATS) as image:
            upright = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except Image.DecompressionBombError as error:
        raise MediaError(f"too large a picture ({error})") from None
    except OSError as error:
        if error.errno is not None:
            raise MediaError(f"cannot be read ({error.strerror})") from None
        reason = str(error).splitlines()[0]
        raise MediaError(f"damaged or not a picture ({_without_file(reason)})") from None
    except (SyntaxError, ValueError, EOFError, IndexError, TypeError) as error:  # of its decoders
        raise MediaError(f"damaged or not a picture ({error})") from None
    height, width = upright.shape[:2]
    if max(height, width) > NARROWEST * min(height, width):
        raise MediaError(
            f"its picture of {width} x {height} pixels is too narrow: at most {NARROWEST} to 1"
        )
    return upright


def still_pictures(
    source: Source,
    times: Sequence[float] | np.ndarray,
    *,
    size: tuple[int, int],
    rotation: int = 0,
    frames: int | None = None,
) -> np.ndarray:
    """The still at every time, uint8 RGB [K, H, W, 3]. Interface: `pictures.decord_pictures`."""
    del rotation, frames
    picture = torch.from_numpy(read_still(source)[None])  # [1, H, W, 3]
    x = fitted(picture, size).permute(0, 2, 3, 1).numpy()  # [1, H, W, 3]
    return np.repeat(x, len(times), axis=0)


def fitted(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 [T, H, W, 3] -> uint8 [T, 3, H', W'] of the size (width, height), bilinear with
    antialiasing."""
    x = pictures.permute(0, 3, 1, 2)  # [T, 3, H, W]
    width, height = size
    if x.shape[2:] == (height, width):
        return x
    x = F.interpolate(x.float(), size=(height, width), mode="bilinear", antialias=True)
    return x.round().clamp(0, 255).byte()


def _without_file(reason: str) -> str:
    """Pillow's own words without the file's name behind them."""
    return reason.split(" '")[0].split(" <")[0]

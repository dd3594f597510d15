"""Turned and scaled squares cut out of pictures, bilinear; beyond a picture its edge goes on.

Letters: N pictures, H W their height and width, S side of the square, all in pixels.
"""

import numpy as np


def cut_out(pictures: np.ndarray, middles: np.ndarray, steps: np.ndarray, size: int) -> np.ndarray:
    """Squares of `size` pixels around points of pictures.

    Args:
        pictures: uint8 [N, H, W, C].
        middles: x and y of each square's middle, pixels [N, 2]; the first pixel's middle is (0, 0).
        steps: what one pixel to the right and one down in a square are in its picture, as the two
            columns of [N, 2, 2].

    Returns:
        float32 [N, C, S, S], 0 to 255.
    """
    import torch
    import torch.nn.functional as F

    height, width = pictures.shape[1:3]
    at = np.arange(size) - (size - 1) / 2
    y, x = np.meshgrid(at, at, indexing="ij")
    offsets = np.stack([x, y], -1)  # [S, S, 2]
    places = np.einsum("ncd,abd->nabc", steps, offsets) + middles[:, None, None]  # [N, S, S, 2]
    # only what the squares see becomes float: pictures may be large
    low = np.clip(np.floor(places.min((0, 1, 2))) - 1, 0, (width - 1, height - 1)).astype(int)
    high = np.clip(np.ceil(places.max((0, 1, 2))) + 2, low + 1, (width, height)).astype(int)
    pictures, places = pictures[:, low[1] : high[1], low[0] : high[0]], places - low
    height, width = pictures.shape[1:3]
    places = (places + 0.5) / (width, height) * 2 - 1  # -1 and 1 are the picture's outer edges
    grid = torch.from_numpy(places.astype(np.float32))
    values = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float()
    squares: np.ndarray = F.grid_sample(
        values, grid, padding_mode="border", align_corners=False
    ).numpy()
    return squares

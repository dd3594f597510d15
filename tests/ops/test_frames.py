"""Clips of different lengths: padded and packed are two forms of the same."""

import torch

from avssl.blocks.resnet import convolve
from avssl.ops.frames import follows, put_frames, take_frames, valid_frames
from tests.recipes.raven import indices

LENGTHS, TIME = (4, 1, 5, 3), 5
FRAMES = indices(LENGTHS, TIME)


def test_packed_and_back() -> None:
    x = torch.randn(4, TIME, 2, 3)
    packed = take_frames(x, FRAMES)
    expected = torch.cat([clip[:length] for clip, length in zip(x, LENGTHS, strict=True)])
    assert torch.equal(packed, expected)
    back = put_frames(packed, FRAMES, 4, TIME)
    valid = valid_frames(FRAMES, 4, TIME)
    assert torch.equal(valid.sum(1), torch.tensor(LENGTHS))
    assert torch.equal(back[valid], packed) and not back[~valid].any()
    whole = take_frames(x, None)
    assert torch.equal(put_frames(whole, None, 4, TIME), x)
    assert valid_frames(None, 4, TIME).all()


def test_a_convolution_over_packed_frames_is_one_over_each_clip() -> None:
    conv = torch.nn.Conv1d(2, 3, 3, 2, padding=1)
    conv.bias = None
    x = torch.randn(4, TIME, 2, 6)  # [B, T, C, L]
    packed = take_frames(x, FRAMES).unsqueeze(2)  # [V, C, 1, L]
    found = convolve(conv, packed, follows(FRAMES, packed, TIME)).squeeze(2)  # [V, 3, 3]
    clips = [
        conv(clip[:length].transpose(0, 1).flatten(1)[None])[0].unflatten(1, (length, 3))
        for clip, length in zip(x, LENGTHS, strict=True)
    ]
    torch.testing.assert_close(found, torch.cat([clip.transpose(0, 1) for clip in clips]))

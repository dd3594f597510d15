"""Position tables of the recipe: which channels tell which axis."""

import pytest
import torch
from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding

from avssl.blocks.positions import SinCos2d, SinCos3d


def table(block: SinCos2d | SinCos3d) -> torch.Tensor:
    block.init_weights()
    return block.table[0]  # [N, D]


def test_audio_table_over_64_by_8_equals_the_reference_with_the_column_first() -> None:
    ours = table(SinCos2d(width=768, size=[1024, 128], patch=[16, 16]))
    row_first = build_2d_sinusoidal_position_embedding(64, 8, 768)
    column_first = torch.cat([row_first[:, 384:], row_first[:, :384]], dim=1)  # MAE's own layout
    assert ours.shape == (512, 768)
    torch.testing.assert_close(ours, column_first, rtol=0, atol=1e-6)


def test_audio_index_is_t_times_8_plus_f() -> None:
    ours = table(SinCos2d(width=16, size=[1024, 128], patch=[16, 16])).view(64, 8, 16)
    assert torch.equal(ours[:, :, 8:], ours[:, :1, 8:].expand(-1, 8, -1))  # time: the same in a row
    assert torch.equal(ours[:, :, :8], ours[:1, :, :8].expand(64, -1, -1))


def test_video_table_is_separable_a_quarter_for_time() -> None:
    ours = table(SinCos3d(width=768, size=[8, 224, 224], patch=[2, 16, 16]))
    assert ours.shape == (784, 768)
    ours = ours.view(4, 196, 768)  # index t * 196 + h * 14 + w
    assert torch.equal(ours[:, :, :192], ours[:, :1, :192].expand(-1, 196, -1))
    assert torch.equal(ours[:, :, 192:], ours[:1, :, 192:].expand(4, -1, -1))
    time = ours[:, 0, :192]
    assert torch.allclose(time[:, 0], torch.arange(4.0).sin())  # sines first, fastest first
    assert torch.allclose(time[:, 96], torch.arange(4.0).cos())
    place = table(SinCos2d(width=576, size=[224, 224], patch=[16, 16]))
    assert torch.equal(ours[0, :, 192:], place)


@pytest.mark.parametrize("cls", [True, False])
def test_cls_row_is_zero(cls: bool) -> None:
    with_cls = table(SinCos2d(width=16, size=[8, 8], patch=[4, 4], cls=True))
    without = table(SinCos2d(width=16, size=[8, 8], patch=[4, 4]))
    assert with_cls.shape == (5, 16)
    assert with_cls[0].abs().max() == 0
    assert torch.equal(with_cls[1:], without)


def test_positions_are_stored_in_float32_and_never_trained() -> None:
    block = SinCos3d(width=16, size=[2, 8, 8], patch=[2, 4, 4])
    assert block.table.dtype == torch.float32
    assert list(block.parameters()) == []
    assert list(block.state_dict()) == ["table"]


def test_wrong_number_of_tokens_is_a_sentence() -> None:
    block = SinCos2d(width=16, size=[8, 8], patch=[4, 4])
    with pytest.raises(ValueError, match="5 tokens came, but the positions are those of 4"):
        block(torch.zeros(1, 5, 16))


def test_sizes_that_are_no_whole_patches_are_refused() -> None:
    with pytest.raises(ValueError, match="not a whole number of patches"):
        SinCos2d(width=16, size=[9, 8], patch=[4, 4])

"""Blocks and losses of speech recognition: held against torch's own, causal, blind to padding."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from avssl.blocks.text_decoder import TextDecoder, hidden_frames
from avssl.blocks.text_streams import JoinStreams, StrideMask
from avssl.losses.text import CtcLoss, TextAccuracy, TextCrossEntropy

UNITS, END = 9, 8
TEXT = torch.tensor([[5, 7, -1, -1], [1, 1, 3, 2], [4, -1, -1, -1]])
LENGTHS, TIME = [6, 10, 3], 10
FRAMES = torch.tensor([10 * row + t for row, n in enumerate(LENGTHS) for t in range(n)])


@pytest.fixture
def decoder() -> TextDecoder:
    torch.manual_seed(0)
    block = TextDecoder(memory=12, width=16, depth=2, heads=2, hidden=32, units=UNITS)
    block.init_weights()
    return block.eval()


def memory() -> Tensor:
    return torch.randn(3, TIME, 12, generator=torch.Generator().manual_seed(1))


def test_the_decoder_of_30_hours_has_the_size_of_the_paper() -> None:
    with torch.device("meta"):
        small = TextDecoder(memory=512, width=256, depth=6, heads=4, hidden=2048, units=1049)
        base = TextDecoder(memory=512, width=512, depth=6, heads=8, hidden=2048, units=1049)
        large = TextDecoder(memory=1024, width=1024, depth=9, heads=16, hidden=4096, units=1049)
    counts = [sum(p.numel() for p in block.parameters()) / 1e6 for block in (small, base, large)]
    assert [round(count, 1) for count in counts] == [10.1, 26.3, 153.3]


def test_a_unit_depends_on_those_before_it_alone(decoder: TextDecoder) -> None:
    before = decoder(memory(), TEXT, FRAMES)  # [3, 5, 9]
    assert before.shape == (3, 5, UNITS)
    for place in range(4):
        changed = TEXT.clone()
        changed[1, place:] = 6
        after = decoder(memory(), changed, FRAMES)
        torch.testing.assert_close(after[:, : place + 1], before[:, : place + 1])
        assert not torch.allclose(after[1, place + 1], before[1, place + 1])


def test_padding_never_matters(decoder: TextDecoder) -> None:
    frames, text = memory(), TEXT
    before = decoder(frames, text, FRAMES)
    spoilt = frames.clone()
    for row, length in enumerate(LENGTHS):
        spoilt[row, length:] = 1e4
    torch.testing.assert_close(decoder(spoilt, text, FRAMES), before)
    for row, length in enumerate(LENGTHS):  # each clip alone, without padding of either kind
        own = text[row, text[row] >= 0][None]
        alone = decoder(frames[row : row + 1, :length], own)
        torch.testing.assert_close(alone[0], before[row, : own.shape[1] + 1])
    loss, logits = CtcLoss(), torch.randn(3, TIME, UNITS)
    one = loss(logits, text, FRAMES)
    for row, length in enumerate(LENGTHS):
        logits[row, length:] = 1e4
    torch.testing.assert_close(loss(logits, text, FRAMES), one)


def test_one_step_at_a_time_gives_what_the_whole_text_gives(decoder: TextDecoder) -> None:
    whole = decoder(memory(), TEXT, FRAMES)
    keys, seen = decoder.keys(memory()), torch.arange(TIME) < torch.tensor(LENGTHS)[:, None]
    hidden = hidden_frames(seen, memory())
    past: list = [None, None]
    for place, units in enumerate(torch.tensor([[END, 5, 7], [END, 1, 1], [END, 4, END]]).T):
        logits, past = decoder.step(units, past, keys, hidden)
        torch.testing.assert_close(logits, whole[:, place])
    clips = torch.tensor([2, 0, 2, 2])  # several texts of a clip
    logits, _ = decoder.step(torch.full((4,), END), [None, None], keys, hidden, clips)
    torch.testing.assert_close(logits, whole[clips, 0])


def test_ctc_is_that_of_torch_a_sum_over_units_and_a_mean_over_clips() -> None:
    logits = torch.randn(3, TIME, UNITS, requires_grad=True)
    loss = CtcLoss()(logits, TEXT, FRAMES)
    parts = [
        F.ctc_loss(
            logits[row, :length].log_softmax(-1),
            TEXT[row, TEXT[row] >= 0],
            torch.tensor(length),
            (TEXT[row] >= 0).sum(),
            reduction="sum",
        )
        for row, length in enumerate(LENGTHS)
    ]
    torch.testing.assert_close(loss, sum(parts) / 3)
    loss.backward()
    assert logits.grad is not None and logits.grad[0, 6:].abs().sum() == 0


def test_ctc_of_a_text_longer_than_its_clip_counts_nothing() -> None:
    logits = torch.randn(1, 2, UNITS, requires_grad=True)
    loss = CtcLoss()(logits, torch.tensor([[1, 2, 3]]))
    loss.backward()
    assert loss == 0 and logits.grad is not None and logits.grad.isfinite().all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_that_of_torch_on_units_and_end(smoothing: float) -> None:
    logits = torch.randn(3, 5, UNITS)
    wanted = [[5, 7, END], [1, 1, 3, 2, END], [4, END]]
    parts = [
        F.cross_entropy(
            logits[row, : len(units)],
            torch.tensor(units),
            reduction="sum",
            label_smoothing=smoothing,
        )
        for row, units in enumerate(wanted)
    ]
    found = TextCrossEntropy(smoothing=smoothing)(logits, TEXT)
    torch.testing.assert_close(found, sum(parts) / 3)


def test_accuracy_counts_units_and_ends() -> None:
    logits = torch.zeros(3, 5, UNITS)
    logits[0, [0, 1, 2], [5, 7, END]] = 1  # all right
    logits[1, [0, 1, 2, 3, 4], [1, 2, 3, 4, END]] = 1  # 3 of 5
    logits[2, [0, 1], [5, 1]] = 1  # none of 2
    assert TextAccuracy()(logits, TEXT) == pytest.approx(6 / 10)


def test_masks_are_one_span_per_stride_within_the_clip_and_in_training_alone() -> None:
    lengths, time = torch.tensor([100, 20, 4] * 200), 100
    place = torch.arange(time)
    frames = (place < lengths[:, None]).flatten().nonzero()[:, 0]
    like = torch.empty(600, 1, time, 2, 2)
    torch.manual_seed(0)
    block = StrideMask(window=10, stride=25)
    mask = block(like, frames)  # [600, 100]
    assert mask.shape == (600, time) and set(mask.unique().tolist()) == {0, 1}
    assert (mask * (place >= lengths[:, None])).sum() == 0
    starts = (F.pad(mask, (1, 0)).diff(dim=1) > 0).sum(1)  # spans may touch
    most = -(-lengths // 25)
    assert (starts <= most).all() and (mask.sum(1) <= 9 * most).all()
    share = 1 - (1 - 4.5 / 100) ** 4  # four spans of 4.5 frames in the mean, which may overlap
    assert mask[lengths == 100].mean() == pytest.approx(share, abs=0.02)
    assert set(mask[lengths == 20].sum(1).tolist()) == set(range(10))  # the window is exclusive
    assert mask[lengths == 4].amax(1).min() == 0 and mask[lengths == 4].sum(1).max() == 4
    assert block.eval()(like, frames).sum() == 0
    assert StrideMask(window=0, stride=25)(like).sum() == 0
    wave = StrideMask(window=10, stride=25)(torch.empty(3, 50, 640))
    assert wave.shape == (3, 50)


@pytest.mark.parametrize(
    ("share", "deaf", "blind"), [(0.0, 0, 0), (1.0, 0.3, 0.7), (0.5, 0.15, 0.35)]
)
def test_modality_dropout_takes_a_whole_batch_and_never_both(
    share: float, deaf: float, blind: float
) -> None:
    torch.manual_seed(0)
    join = JoinStreams(audio=4, video=4, width=8, modality_dropout=share, audio_dropout=0.3)
    join.init_weights()
    audio, video, none = torch.randn(2, 3, 4), torch.randn(2, 3, 4), torch.zeros(2, 3, 4)
    cases = [join.eval()(*pair) for pair in ((audio, video), (none, video), (audio, none))]
    join.train()
    counts = [0, 0, 0]
    for _ in range(600):
        out = join(audio, video)
        equal = [torch.allclose(out, case) for case in cases]
        assert sum(equal) == 1
        counts[equal.index(True)] += 1
    assert [n / 600 for n in counts] == pytest.approx([1 - share, deaf, blind], abs=0.06)


@pytest.mark.parametrize(
    ("block", "arguments"),
    [
        (TextDecoder, {"memory": 8, "width": 6, "depth": 1, "heads": 2, "hidden": 8, "units": 9}),
        (TextDecoder, {"memory": 8, "width": 8, "depth": 1, "heads": 2, "hidden": 8, "units": 2}),
        (StrideMask, {"window": -1, "stride": 25}),
        (StrideMask, {"window": 10, "stride": 0}),
        (JoinStreams, {"audio": 4, "video": 4, "width": 8, "modality_dropout": 1.5}),
        (TextCrossEntropy, {"smoothing": 1.0}),
    ],
)
def test_arguments_that_make_no_sense_are_refused(block: type, arguments: dict) -> None:
    with pytest.raises(ValueError):
        block(**arguments)


def test_a_loss_of_chance_is_what_it_should_be() -> None:
    even = torch.zeros(3, 5, UNITS)
    counted = (TEXT >= 0).sum() + 3
    assert TextCrossEntropy()(even, TEXT) == pytest.approx(float(counted) * math.log(UNITS) / 3)

"""Language models of units: what they give adds up, follows the texts, and survives the disk."""

from pathlib import Path

import pytest
import torch

from avssl.errors import UserError
from avssl.speech.beam import beam_search
from avssl.speech.config import LMSize, TransformerConfig
from avssl.speech.decoding import Decoding
from avssl.speech.lm import load_lm, save_lm
from avssl.speech.ngram import NgramLM
from avssl.speech.transformer_lm import TransformerLM, train_transformer
from avssl.speech.units import Units

END = 4  # units: blank, a, b, c, end
A, B, C = 1, 2, 3


def after(lm: NgramLM, *units: int) -> list[float]:
    """Probabilities of the next unit."""
    return lm(torch.tensor([[END, *units]]), torch.tensor([0]))[0].exp().tolist()


def test_bigrams_are_those_of_kneser_and_ney() -> None:
    lm = NgramLM.train([[A, B], [A, B], [A, C]], units=5, order=2)
    # bigrams: end-a 3, a-b 2, a-c 1, b-end 2, c-end 1; so n1 = 2, n2 = 2, D = 2 / 6
    # contexts that a, b, c, end follow: 1, 1, 1, 2 of 5; of these n1 = 3, n2 = 1, D = 3 / 5
    low = [(n - 0.6) / 5 + 0.6 * 4 / 5 / 4 for n in (1, 1, 1, 2)]
    third = 1 / 3
    expected = [0, *(third * 2 / 3 * p for p in low)]
    expected[B] += (2 - third) / 3
    expected[C] += (1 - third) / 3
    assert torch.allclose(torch.tensor(after(lm, A)), torch.tensor(expected), atol=1e-6)


def test_probabilities_add_up_after_any_text() -> None:
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(1, 4, (n,), generator=generator).tolist() for n in (1, 2, 5, 9, 0, 7)]
    for order in (1, 2, 3, 5):
        lm = NgramLM.train(texts, units=5, order=order)
        prefixes = torch.randint(1, 4, (50, 6), generator=generator)
        prefixes[:, 0] = END
        given = lm(prefixes, torch.zeros(50, dtype=torch.int64)).exp()  # [50, 5]
        assert torch.allclose(given.sum(1), torch.ones(50), atol=1e-5)
        assert (given[:, 0] == 0).all() and (given[:, 1:] > 0).all()


def test_longer_contexts_know_more() -> None:
    texts = [[A, B, C] * 3 for _ in range(5)]
    likely = [after(NgramLM.train(texts, units=5, order=n), A, B)[C] for n in (1, 2, 3)]
    assert likely[0] < likely[1] and likely[2] > 0.8


def small(texts: list[list[int]]) -> TransformerLM:
    size = LMSize(width=16, depth=1, heads=2, hidden=32, dropout=0.0)
    config = TransformerConfig("transformer", size=size, epochs=25, batch=8, lr=2e-2)
    return train_transformer(texts, units=5, config=config)


def test_a_transformer_learns_its_texts_and_never_says_blank() -> None:
    texts = [[A, B, C], [B, A], [A, B, C, A]] * 4
    lm = small(texts)
    lines = [torch.tensor([[END, *text, END]]) for text in texts[:3]]
    said = [
        lm(line[:, :place], torch.tensor([0]))[0, line[0, place]]
        for line in lines
        for place in range(1, line.shape[1])
    ]
    assert float(torch.stack(said).exp().mean()) > 0.7  # a unit in four by chance
    prefixes = torch.tensor([[END, B, A], [END, A, B]])
    together = lm(prefixes, torch.tensor([0, 1])).exp()
    assert together[0, END] > 0.9 and together[1, C] > 0.9
    assert (together[:, 0] == 0).all()
    assert torch.allclose(together.sum(1), torch.ones(2), atol=1e-5)
    whole = lm.logits(torch.tensor([[END, A, B, C, C]]))[:, :3]  # what comes later plays no part
    assert torch.allclose(whole, lm.logits(torch.tensor([[END, A, B]])), atol=1e-5)


def test_models_survive_the_disk_and_know_their_units(tmp_path: Path) -> None:
    units, texts = Units.characters("abc"), [[A, B, C], [A, B]]
    prefixes, clips = torch.tensor([[END, A, B], [END, C, C]]), torch.tensor([0, 1])
    for lm in (NgramLM.train(texts, units=5, order=3), small(texts)):
        save_lm(lm, tmp_path / "lm.safetensors", units=units)
        again = load_lm(tmp_path / "lm.safetensors", units=units)
        assert type(again) is type(lm) and torch.equal(again(prefixes, clips), lm(prefixes, clips))
        with pytest.raises(UserError, match="of other units"):
            load_lm(tmp_path / "lm.safetensors", units=Units.characters("abd"))
    (tmp_path / "text").write_text("no model")
    for name, sentence in (("text", "no language model"), ("none", "there is no")):
        with pytest.raises(UserError, match=sentence):
            load_lm(tmp_path / name, units=units)


def test_a_language_model_settles_what_ctc_leaves_open() -> None:
    probabilities = torch.full((1, 6, 5), 0.01)
    for frame, likely in enumerate(((A,), (0,), (B, C), (0,), (C,), (0,))):
        probabilities[0, frame, list(likely)] = 1 / len(likely)
    log_probs, lengths = (probabilities / probabilities.sum(-1, keepdim=True)).log(), [6]
    for text in ([A, B, C], [A, C, C]):
        lm = NgramLM.train([text] * 5, units=5, order=3)
        (found,) = beam_search(
            log_probs, torch.tensor(lengths), None, settings=Decoding(lm_weight=0.5), lm=lm
        )
        assert found.units == text

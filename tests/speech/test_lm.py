"""Language models of units: what they give adds up, follows the texts, and survives the disk."""

import torch

from avssl.speech.ngram import NgramLM

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

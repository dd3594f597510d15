"""Several ranks see what one process would: draws, gathered contrasts and their gradients."""

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from avssl.blocks.masks import RandomMask
from avssl.blocks.relative import RelativeTransformer
from avssl.losses.contrast import ContrastHealth, InfoNce
from avssl.ops.gather import gather_batch, global_offset
from avssl.ops.random import batch_uniform, rank_and_world

CPU = torch.device("cpu")
WORLD, ROWS = 2, 3
LENGTHS = [3, 1, 4, 7, 7, 6]  # the ranks have 8 and 20 real frames


def embeddings() -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(WORLD * ROWS, 8) for _ in range(2)]


def encoded(rows: slice, lengths: list[int]) -> torch.Tensor:
    """Rows of a batch of clips of these lengths through blocks with dropout and drop path."""
    torch.manual_seed(3)
    encoder = RelativeTransformer(
        width=8, depth=2, heads=2, hidden=16, dropout=0.2, attention_dropout=0, drop_path=0.3,
        norm="layer",
    )  # fmt: skip
    encoder.init_weights()
    x = torch.randn(WORLD * ROWS, 7, 8)[rows]
    frames = [row * 7 + i for row, n in enumerate(lengths[rows]) for i in range(n)]
    torch.manual_seed(0)
    return encoder(x, torch.tensor(frames)).detach()


def work(rank: int, folder: str) -> None:
    """What one rank computes, written to ``folder``."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/start", rank=rank, world_size=WORLD
    )
    assert rank_and_world() == (rank, WORLD)
    torch.manual_seed(0)
    result = {"noise": batch_uniform(ROWS, 5, device=CPU)}
    result["mask"] = RandomMask(ratio=0.5, patch=[2])(torch.zeros(ROWS, 1, 16))["mask"]
    mine = slice(rank * ROWS, (rank + 1) * ROWS)
    result["encoded"] = encoded(mine, LENGTHS)
    a, b = (x[mine].clone().requires_grad_() for x in embeddings())
    result["gathered"] = gather_batch(a).detach().clone()
    result["offset"] = torch.tensor(global_offset(ROWS))
    for name, call in (
        ("eager", InfoNce(temperature=0.1, two_way=True)),
        (
            "compiled",
            torch.compile(
                InfoNce(temperature=0.1, two_way=True), fullgraph=True, backend="aot_eager"
            ),
        ),
    ):
        a.grad = b.grad = None
        loss = call(a, b)
        loss.backward()
        result[name] = torch.cat([loss.detach()[None], a.grad.flatten(), b.grad.flatten()])
    result["local"] = InfoNce(temperature=0.1, gather=False)(a, b).detach()
    result["health"] = torch.stack(list(ContrastHealth()(a, b).values()))
    torch.save(result, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_equal_one_process(tmp_path: Path) -> None:
    mp.spawn(work, args=(str(tmp_path),), nprocs=WORLD)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(WORLD)]

    torch.manual_seed(0)
    assert torch.equal(
        torch.cat([rank["noise"] for rank in ranks]), batch_uniform(WORLD * ROWS, 5, device=CPU)
    )
    masks = RandomMask(ratio=0.5, patch=[2])(torch.zeros(WORLD * ROWS, 1, 16))
    assert torch.equal(torch.cat([rank["mask"] for rank in ranks]), masks["mask"])

    together = torch.cat([rank["encoded"] for rank in ranks])
    torch.testing.assert_close(together, encoded(slice(None), LENGTHS))

    a, b = (x.requires_grad_() for x in embeddings())
    loss = InfoNce(temperature=0.1, two_way=True)(a, b)
    loss.backward()
    for name in ("eager", "compiled"):
        losses = torch.stack([rank[name][0] for rank in ranks])
        torch.testing.assert_close(losses.mean(), loss.detach())
        for index, x in enumerate((a, b)):
            # averaged over ranks, as DDP and FSDP2 do
            found = [rank[name][1:].view(2, ROWS, 8)[index] / WORLD for rank in ranks]
            torch.testing.assert_close(torch.cat(found), x.grad)
    for number, rank in enumerate(ranks):
        assert torch.equal(rank["gathered"], a.detach())
        assert rank["offset"] == number * ROWS
        mine = slice(number * ROWS, (number + 1) * ROWS)
        alone = InfoNce(temperature=0.1, gather=False)(a[mine], b[mine])
        torch.testing.assert_close(rank["local"], alone.detach())
        assert rank["health"][1] == WORLD * ROWS - 1
    accuracy = ContrastHealth()(a, b)["accuracy"]
    torch.testing.assert_close(sum(rank["health"][0] for rank in ranks) / WORLD, accuracy)


def test_one_process_gathers_nothing() -> None:
    x = torch.randn(3, 4)
    assert gather_batch(x) is x
    assert rank_and_world() == (0, 1)


def test_draws_repeat_with_the_seed_and_differ_without() -> None:
    torch.manual_seed(4)
    first, second = batch_uniform(3, 5, device=CPU), batch_uniform(3, 5, device=CPU)
    torch.manual_seed(4)
    assert torch.equal(batch_uniform(3, 5, device=CPU), first)
    assert not torch.equal(first, second)
    assert batch_uniform(3, 5, device=torch.device("meta")).shape == (3, 5)

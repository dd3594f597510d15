"""RAVEn in two processes: one step gives what one process gives with the same clips."""

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from avssl.graph.graph import Graph
from avssl.train.teachers import update_teachers
from tests.recipes.raven import batch, rows, tiny

LENGTHS = (12, 12, 5, 8)  # 24 frames of one process and 13 of the other
ARGS = {"video_to_video": 0.5, "drop_path": 0.3}


def step(graph: Graph, whole: dict[str, Tensor], world: int) -> dict[str, Tensor]:
    """Losses, gradients, and everything the next step starts from."""
    model = DistributedDataParallel(graph, static_graph=True) if world > 1 else graph
    optimizer = torch.optim.SGD([p for p in graph.parameters() if p.requires_grad], 0.1)
    torch.manual_seed(7)
    figures = ["cv.std", "cv.rank", "ca.std", "ca.rank"]
    out = model(whole, outputs=[*graph.losses, *figures])
    total = sum(out[name] for name in graph.losses)
    assert isinstance(total, Tensor)
    total.backward()
    optimizer.step()
    update_teachers(graph, 0.0)
    found = {f"out.{name}": value.detach() for name, value in out.items()}
    found |= {f"grad.{k}": p.grad for k, p in graph.named_parameters() if p.grad is not None}
    return found | {f"state.{name}": value for name, value in graph.state_dict().items()}


def work(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/start", rank=rank, world_size=2)
    mine = rows(batch(LENGTHS), 2 * rank, 2 * rank + 2)
    torch.save(step(tiny(**ARGS), mine, 2), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_equal_one_process(tmp_path: Path) -> None:
    mp.spawn(work, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    alone = step(tiny(**ARGS), batch(LENGTHS), 1)
    assert set(first) == set(second) == set(alone)
    for name, expected in alone.items():
        loss = name.startswith("out.l_")  # each rank returns its share of the frames
        found = (first[name] + second[name]) / 2 if loss else first[name]
        # rounding: sums of many small terms in another order
        assert (found - expected).abs().max() <= 1e-3 * expected.abs().max(), name
        assert loss or torch.equal(first[name], second[name]), name

"""Features: one vector per clip and tower, from the unmasked towers of a trained graph.

Letters: B batch, N clips, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from avssl.data.length_config import REAL
from avssl.errors import UserError


@dataclass(frozen=True)
class Features:
    """Features of the clips of one split, ordered by manifest row.

    vectors: input name -> fp32 [N, D] on the CPU. labels: int64 [N], -1 for none. clips: int64 [N],
    rows of the manifest, each once.
    """

    vectors: dict[str, Tensor]
    labels: Tensor  # [N]
    clips: Tensor  # [N]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, name: str) -> Tensor:
        return self.vectors[name]  # [N, D]

    def select(self, index: Tensor) -> Features:
        """The clips at `index`, int64 [M] or bool [N]."""
        vectors = {name: x[index] for name, x in self.vectors.items()}
        return Features(vectors, self.labels[index], self.clips[index])

    def draw(self, clips: int) -> Features:
        """`clips` clips drawn once and for all: the same for every model, from all classes."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))
        return self.select(order[:clips].sort().values)

    def labelled(self) -> Features:
        """The clips that have a label."""
        return self.select(self.labels >= 0)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside, and afterwards the mode that each submodule had before."""
    before = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, training in before:
            child.training = training


def embed(
    graph: nn.Module,
    towers: Mapping[str, str],
    loader: Iterable[Mapping[str, Any]],
    *,
    device: torch.device | str,
    clips: int | None = None,
) -> Features:
    """Runs towers on complete, unmasked inputs, in eval mode and without gradients.

    towers: batch input -> "module.port" of the port to keep, shape [B, D]; the module is called
    with that input as `x`, with `frames` where it has such a port and batches have it, and nothing
    else. loader: batches with the inputs, `label` and `clip`;
    a clip that appears twice counts once. clips: stop reading after this many. The modes of all
    modules are as before afterwards. Under FSDP every rank calls this, with as many batches.

        embed(graph, {"audio": "audio.pooled", "video": "video.pooled"}, loader, device="cpu")

    Raises UserError for an unknown module, port or input, features that are not [B, D], features
    that are not finite, and an empty loader.
    """
    return embed_each({"": graph}, towers, loader, device=device, clips=clips)[""]


def embed_each(
    graphs: Mapping[str, nn.Module],
    towers: Mapping[str, str],
    loader: Iterable[Mapping[str, Any]],
    *,
    device: torch.device | str,
    clips: int | None = None,
) -> dict[str, Features]:
    """`embed` for several graphs; the loader is read once. A graph may lack some of the towers, and
    has no features of those."""
    modules = {
        (model, name): _find(graph, name, source)
        for name, source in towers.items()
        for model, graph in _with_tower(graphs, source).items()
    }
    rows: dict[tuple[str, str], list[Tensor]] = {key: [] for key in modules}
    labels: list[Tensor] = []
    numbers: list[Tensor] = []
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        for graph in graphs.values():
            stack.enter_context(evaluating(graph))
        for batch in loader:
            for (model, name), (module, port) in modules.items():
                if name not in batch:
                    raise UserError(
                        f"the probe reads the input {name!r}, but a batch holds "
                        f"{', '.join(sorted(batch))}: name an entry of `data.inputs`"
                    )
                out = module(x=batch[name].to(device, non_blocking=True), **_extra(module, batch))
                rows[model, name].append(_vector(out, name, port))
            labels.append(batch["label"].cpu())
            numbers.append(batch["clip"].cpu())
            if clips is not None and sum(map(len, numbers)) >= clips:
                break
    if not numbers:
        raise UserError("no clip to compute features of: the split is empty")
    index = _once(torch.cat(numbers)[:clips])
    features = {
        model: Features(
            {name: torch.cat(rows[model, name])[index] for name in towers if (model, name) in rows},
            torch.cat(labels)[index],
            torch.cat(numbers)[index],
        )
        for model in graphs
    }
    for model, name in modules:
        x = features[model][name]
        bad = int((~x.isfinite().all(1)).sum())
        if bad:
            raise UserError(
                f"the features {towers[name]!r} of the input {name!r} are not finite in {bad} of "
                f"{len(x)} clips: the model diverged; lower `train.lr` or look at its loss curve"
            )
    return features


def _with_tower(graphs: Mapping[str, nn.Module], source: str) -> dict[str, nn.Module]:
    """The graphs that have the module of a tower; all of them if none has."""
    name = source.partition(".")[0]
    return {model: graph for model, graph in graphs.items() if name in graph._modules} or {**graphs}


def _extra(module: nn.Module, batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """Which frames are real, for a tower that asks."""
    spec = getattr(module, "spec", None)
    if spec is None or REAL not in spec.inputs or REAL not in batch:
        return {}
    return {REAL: batch[REAL]}


def _find(graph: nn.Module, name: str, source: str) -> tuple[nn.Module, str]:
    path, _, port = source.partition(".")
    try:
        return graph.get_submodule(path), port
    except AttributeError:
        known = ", ".join(child for child, _ in graph.named_children())
        raise UserError(
            f"the probe reads {source!r} for the input {name!r}, but the graph has no module "
            f"{path!r}: its modules are {known}"
        ) from None


def _vector(out: Tensor | dict[str, Tensor], name: str, port: str) -> Tensor:
    if isinstance(out, dict):
        if port not in out:
            raise UserError(
                f"the probe reads the port {port!r} for the input {name!r}, but that module gives "
                f"{', '.join(out)}: write `module.port` with one of these"
            )
        out = out[port]
    if out.ndim != 2:
        raise UserError(
            f"the probe needs one vector per clip for the input {name!r}, shape [B, D], but the "
            f"port {port!r} gives {list(out.shape)}: name a pooled port"
        )
    return out.float().cpu()  # [B, D]


def _once(clips: Tensor) -> Tensor:
    """Positions of the first appearance of each clip, by rising clip number: int64 [N]."""
    order = torch.argsort(clips, stable=True)
    ranked = clips[order]
    new = torch.ones_like(ranked, dtype=torch.bool)
    new[1:] = ranked[1:] != ranked[:-1]
    return order[new]

"""How an experiment's data, graphs and probes fit: inputs by name and shape, towers by port."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from avssl.data.config import DataConfig
from avssl.data.length_config import REAL
from avssl.errors import UserError

if TYPE_CHECKING:
    from avssl.graph.source import Document, Keys, Problems
    from avssl.graph.spec import GraphSpec
    from avssl.train.config import ProbeConfig

LABEL = "label"  # in every batch, [B]


def check_inputs(
    document: Document,
    data: DataConfig | None,
    probe: ProbeConfig | None,
    specs: Mapping[str, GraphSpec],
    problems: Problems,
) -> None:
    """Report inputs that are not made, not read or of another shape, and towers that are not there.

    Args:
        document: the experiment file.
        data: its `data` section, None if that has mistakes of its own.
        probe: its `probe` section, likewise.
        specs: stage -> its graph, of the stages that could be read.
        problems: collects what does not fit.
    """
    if data is not None and data.lengths is not None:
        _check_unused(document, problems)
    towers = probe.towers if probe is not None else {}
    if data is not None:
        for spec in specs.values():
            _check_made(document, data, spec, problems)
        _check_read(
            document, data, {*towers, *(n for s in specs.values() for n in s.inputs)}, problems
        )
        for name in towers:
            if name not in data.inputs:
                place = document.key_place(("probe", "towers", name))
                sentence = f"data.inputs makes no '{name}'."
                problems.add(place, sentence, unknown=name, known=data.inputs)
    for name, source in towers.items():
        module = source.partition(".")[0]
        having = {stage: spec for stage, spec in specs.items() if module in spec.modules}
        for stage, spec in (having or specs).items():
            _check_tower(document, ("probe", "towers", name), source, stage, spec, problems)


def check_towers(
    document: Document,
    data: DataConfig,
    probe: ProbeConfig,
    specs: Mapping[str, GraphSpec],
    problems: Problems,
) -> None:
    """Report probed towers that give no vector for each clip when they are called as probes do,
    with their input alone.

    Args:
        document, data, probe, problems: of `check_inputs`.
        specs: stage -> its graph, which is in order.
    """
    for name, source in probe.towers.items():
        place = document.value_place(("probe", "towers", name))
        module, _, port = source.partition(".")
        shape = data.inputs[name].shape
        for stage, spec in specs.items():
            if module in spec.modules:
                found = _probed(spec, module, port, shape)
                if found is not None:
                    problems.add(
                        place,
                        f"'{source}' of stage '{stage}' {found}: name a tower that takes an input "
                        "alone, and a port of it that gives one vector for each clip, such as "
                        "pooled.",
                    )
                    break


def _probed(spec: GraphSpec, name: str, port: str, shape: tuple[int | str, ...]) -> str | None:
    """What is wrong with a module as a probed tower; None where nothing is."""
    import torch  # which names do not need

    from avssl.graph.dryrun import BATCHES, FREE_SIZE
    from avssl.graph.graph import Graph

    sizes = [BATCHES[0], *(size if isinstance(size, int) else FREE_SIZE for size in shape)]
    module = Graph.lone(spec, name).eval()
    try:
        with torch.no_grad():
            out = module(x=torch.zeros(sizes, device="meta"))
    except Exception as error:  # whatever a block raises, it cannot be probed
        reason = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
        return f"fails as a probed tower, with x {sizes} alone ({reason})"
    out = out[port] if isinstance(out, dict) else out
    if out.dim() != 2 or out.shape[0] != sizes[0]:
        return f"gives {list(out.shape)} for {sizes[0]} clips, not [B, D]"
    return None


def check_teacher_cache(
    document: Document, data: DataConfig, stage: str, spec: GraphSpec, problems: Problems
) -> None:
    """Report a teacher cache whose targets would not be the same in each epoch.

    Args:
        document, data, problems: of `check_inputs`.
        stage: one with a teacher cache. spec: its graph, which is in order.
    """
    from avssl.train.teacher_cache import random_inputs  # imports torch, which names do not need

    place = document.key_place(("stages", stage, "teacher_cache"))
    if data.lengths is not None:
        problems.add(place, "teacher_cache keeps windows of one length: leave data.lengths out.")
        return
    try:
        moving = random_inputs(data, spec)
    except UserError as error:
        problems.add(place, f"teacher_cache of '{stage}': {error}.")
        return
    if moving:
        changes = " ".join(f"{key}={value}" for key, value in moving.items())
        problems.add(
            place,
            f"teacher_cache of '{stage}' needs clips that look the same in every epoch, and "
            f"{', '.join(moving)} draw{'s' if len(moving) == 1 else ''} anew: set {changes}.",
        )


def _check_unused(document: Document, problems: Problems) -> None:
    """Report what does nothing with `data.lengths`; a run folder's file holds the defaults."""
    defaults = DataConfig()
    for name in ("window", "window_position", "batch"):
        path = ("data", name)
        if document.get(path) not in (None, getattr(defaults, name)):
            sentence = f"data.{name} does nothing with data.lengths: leave it out."
            problems.add(document.key_place(path), sentence)


def _check_made(document: Document, data: DataConfig, spec: GraphSpec, problems: Problems) -> None:
    for name, wanted in spec.inputs.items():
        if name not in data.inputs:
            if name == REAL and data.lengths is None and not wanted.optional:
                sentence = f"only with data.lengths in {document.name} batches have '{REAL}'."
                problems.add(wanted.place, sentence)
            elif not wanted.optional and name not in (LABEL, REAL):
                sentence = f"data.inputs of {document.name} makes no '{name}'."
                problems.add(wanted.place, sentence, unknown=name, known=data.inputs)
            continue
        shape, given = wanted.shape[1:], data.inputs[name].shape
        fits = len(shape) == len(given) and all(
            a == b or not isinstance(a, int) for a, b in zip(shape, given, strict=True)
        )
        if not fits:
            problems.add(
                document.key_place(("data", "inputs", name)),
                f"data.inputs.{name} makes [B, {', '.join(map(str, given))}], but '{spec.name}' "
                f"takes [B, {', '.join(map(str, shape))}].",
            )


def _check_read(document: Document, data: DataConfig, read: set[str], problems: Problems) -> None:
    for name in data.inputs:
        if name not in read:
            place = document.key_place(("data", "inputs", name))
            problems.add(place, f"no stage reads the input '{name}'.")


def _check_tower(
    document: Document, path: Keys, source: str, stage: str, spec: GraphSpec, problems: Problems
) -> None:
    name, _, port = source.partition(".")
    place, module = document.value_place(path), spec.modules.get(name)
    if module is None:
        sentence = f"stage '{stage}' has no module '{name}'."
        problems.add(place, sentence, unknown=name, known=spec.modules)
    elif module.signature is not None and port not in module.signature.outputs:
        sentence = f"module '{name}' has no output '{port}'."
        problems.add(place, sentence, unknown=port, known=module.signature.outputs)

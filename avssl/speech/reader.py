"""A fine-tuned recogniser as a plain module: from prepared clips to hypotheses.

::

    reader.yaml          the graph and its arguments, how inputs are made, units, search
    graphs/ towers/      graph files
    model.safetensors    weights
    units.model          of SentencePiece units
    lm.safetensors       language model, where there is one

Letters: B clips, T frames, W width of the frames, U units.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from avssl.blocks.text_decoder import TextDecoder
from avssl.blocks.text_streams import JoinStreams
from avssl.data.config import DataConfig, Recipe
from avssl.data.length_config import REAL, TextConfig
from avssl.data.usable import open_units
from avssl.errors import UserError
from avssl.graph.graph import Graph, SubGraph
from avssl.graph.names import connect
from avssl.graph.reader import read_graph
from avssl.graph.schema import fill
from avssl.graph.source import Problems, find_file, read_yaml
from avssl.graph.spec import GraphSpec, Node, Source
from avssl.ops.frames import valid_frames
from avssl.speech.averaging import fingerprint
from avssl.speech.decoding import Decoding, Hypothesis
from avssl.speech.lm import LanguageModel, load_lm
from avssl.speech.search import decode
from avssl.speech.steps import DecoderSteps, finite
from avssl.speech.units import Units

READER, WEIGHTS, UNITS, LM = "reader.yaml", "model.safetensors", "units.model", "lm.safetensors"
FOLDER = "reader"  # inside a run folder
Kind = Literal["video", "audio", "both"]


@dataclass(frozen=True)
class ReaderFile:
    """reader.yaml.

    Attributes:
        name: of the run.
        graph: the graph file, and `args` its arguments.
        data: `lengths` and `inputs`, the transcript's among them.
        decode: how the search goes where nothing else is said.
        description: where it comes from; `weights` is the fingerprint that theirs must have, the
            rest free text by key.
    """

    name: str
    graph: str
    data: DataConfig
    args: dict[str, Any] = field(default_factory=dict)
    decode: Decoding = field(default_factory=Decoding)
    description: dict[str, Any] = field(default_factory=dict)


class Reader(nn.Module):
    """Reads lips, or speech, or both.

        reader = Reader.load("runs/vsr")
        [found] = reader.transcribe(batch)          # batch as the data pipeline makes it
        reader.units.decode(found.units), found.confidence

    Attributes:
        kind: "video", "audio" or "both": what it reads.
        units: its inventory. settings: of the search. lm: language model, or None.
        data: how its inputs are made, the transcript not among them.
        description: where it comes from.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        data: DataConfig,
        units: Units,
        settings: Decoding,
        lm: LanguageModel | None = None,
        name: str = "",
        description: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.graph, self.units, self.settings, self.lm = graph, units, settings, lm
        inputs: dict[str, Recipe] = {
            name: item for name, item in data.inputs.items() if not isinstance(item, TextConfig)
        }
        self.data = dataclasses.replace(data, inputs=inputs)
        self.name, self.description = name, dict(description or {})
        self.kind: Kind = "both" if len(inputs) > 1 else "video" if data.needs_video else "audio"
        head, node = find_head(graph.spec)
        module = graph.get_submodule(head)
        assert isinstance(module, SubGraph)
        self._memory = node.inputs["memory"].key
        self._ctc = module.get_submodule(_called(module.spec, "ctc"))
        decoder = module.get_submodule(_called(module.spec, "attention"))
        assert isinstance(decoder, TextDecoder)
        self._decoder = decoder
        if decoder.end != units.end:
            raise UserError(
                f"the graph is built for {decoder.end + 1} units, and {len(units)} are given"
            )
        self.eval()

    @classmethod
    def load(cls, folder: str | os.PathLike[str], device: str = "cpu") -> Reader:
        """Read a reader's folder, or that inside a run folder, onto a device.

        Raises:
            UserError: it is none, or a damaged one.
        """
        path = Path(folder).expanduser()
        if not (path / READER).is_file() and (path / FOLDER / READER).is_file():
            path = path / FOLDER
        if not path.exists():
            raise UserError(f"{folder} is not there")
        if not (path / READER).is_file():
            raise UserError(
                f"{folder} holds no {READER}: give the run folder of a finished tools/finetune.py"
            )
        file, spec = _read(path)
        text = text_recipe(file.data)
        if text.model is not None:
            text = dataclasses.replace(text, model=str(path / UNITS))
        units = open_units(text)
        try:
            weights = load_file(path / WEIGHTS)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path / WEIGHTS} cannot be read: {error}") from None
        if fingerprint(weights) != file.description.get("weights"):
            raise UserError(
                f"{path / WEIGHTS} is not what {READER} says was written: it is damaged or of "
                "another run, so copy it again; the command that trained it repairs it"
            )
        if file.decode.lm_weight and not (path / LM).is_file():
            raise UserError(f"{path} lacks {LM}: the command that trained it writes it again")
        return cls(
            Graph.from_weights(spec, weights),
            data=file.data,
            units=units,
            settings=file.decode,
            lm=load_lm(path / LM, units=units) if (path / LM).is_file() else None,
            name=file.name,
            description=file.description,
        ).to(device)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    @torch.no_grad()
    def encode(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Frames as the decoder sees them.

        Args:
            batch: inputs as the data pipeline gives them, and `frames`; of a reader of both, one
                may be missing.

        Returns:
            [B, T, W], and the number of real frames of each clip, int64 [B].

        Raises:
            UserError: an input is missing.
        """
        given = {
            name: batch[name].to(self.device)
            for name in self.graph.inputs
            if batch.get(name) is not None
        }
        missing = [name for name in self.data.inputs if name not in given]
        if len(missing) == len(self.data.inputs) or (missing and self._join() is None):
            raise UserError(f"the batch has no '{missing[0]}', which the reader reads")
        unread = {name: torch.empty(0) for name in self.graph.inputs if name not in given}
        unread.pop(REAL, None)
        memory = self._joined({**given, **unread}, missing)  # [B, T, W]
        rows, time = memory.shape[:2]
        valid = valid_frames(given.get(REAL), rows, time, device=memory.device)
        return memory, valid.sum(1)

    @torch.no_grad()
    def ctc(self, memory: Tensor) -> Tensor:
        """Log-probabilities of each frame's unit, float32 [B, T, U] of [B, T, W].

        Raises:
            UserError: they are not finite.
        """
        return finite(self._ctc(memory).float().log_softmax(-1))

    @torch.no_grad()
    def scorer(self, memory: Tensor, lengths: Tensor) -> DecoderSteps:
        """The attention decoder on clips [B, T, W] with `lengths` real frames [B]."""
        return DecoderSteps(self._decoder, memory, lengths)

    @torch.no_grad()
    def transcribe(
        self, batch: Mapping[str, Any], *, settings: Decoding | None = None
    ) -> list[Hypothesis]:
        """What is said in each clip of a batch.

        Args:
            batch: as of `encode`.
            settings: of the search; the reader's own by default.
        """
        memory, lengths = self.encode(batch)
        return self.search(memory, lengths, self.ctc(memory), settings or self.settings)

    def search(
        self, memory: Tensor, lengths: Tensor, log_probs: Tensor, settings: Decoding
    ) -> list[Hypothesis]:
        """What is said, of what `encode` and `ctc` gave."""
        beam = settings.method == "beam" and settings.ctc_weight < 1
        scorer = self.scorer(memory, lengths) if beam else None
        lm = self.lm if settings.lm_weight else None
        return decode(log_probs, lengths, scorer, settings=settings, lm=lm)

    def _join(self) -> Node | None:
        """The node that joins sound and picture, if it is what the decoder reads."""
        node = self.graph.spec.nodes.get(self._memory.partition(".")[0])
        joins = node is not None and isinstance(self.graph.get_submodule(node.call), JoinStreams)
        return node if joins else None

    def _joined(self, batch: dict[str, Tensor], missing: list[str]) -> Tensor:
        """[B, T, W]; features of a missing input are zeros, as in modality dropout."""
        join = self._join()
        if not missing or join is None:
            return self.graph(batch, [self._memory])[self._memory]
        sources = {
            port: source.key
            for port, source in join.inputs.items()
            if not _reads(self.graph.spec, source, missing)
        }
        found = self.graph(batch, list(sources.values()))
        ports = {port: found[key] for port, key in sources.items()}
        like = next(iter(ports.values()))
        module = self.graph.get_submodule(join.call)
        assert isinstance(module, JoinStreams)
        for port in set(module.widths) - set(ports):
            ports[port] = like.new_zeros(*like.shape[:2], module.widths[port])
        return module(**ports)


def find_head(spec: GraphSpec) -> tuple[str, Node]:
    """The module of a graph that holds the text decoder, and the node that calls it.

    Raises:
        UserError: there is none.
    """
    for node in spec.nodes.values():
        inner = spec.modules[node.call].graph
        if inner is None or not {"ctc", "attention"} <= set(inner.outputs):
            continue
        if inner.modules[_called(inner, "attention")].block == "text_decoder":
            return node.call, node
    raise UserError(
        f"'{spec.name}' recognises no speech: it calls no sub-graph with a text_decoder, such as "
        "towers/text_head.yaml"
    )


def text_recipe(data: DataConfig) -> TextConfig:
    """The transcript's recipe.

    Raises:
        UserError: there is not exactly one.
    """
    found = [item for item in data.inputs.values() if isinstance(item, TextConfig)]
    if len(found) != 1:
        raise UserError(f"data.inputs has {len(found)} inputs of type text: one is needed")
    return found[0]


def _reads(spec: GraphSpec, source: Source, inputs: Collection[str]) -> bool:
    """Whether a value is made of one of these inputs of the batch."""
    if source.node == "batch":
        return source.port in inputs
    return any(_reads(spec, item, inputs) for item in spec.nodes[source.node].inputs.values())


def _called(spec: GraphSpec, output: str) -> str:
    """The module whose result is an output of a sub-graph."""
    return spec.nodes[spec.outputs[output].node].call


def _read(path: Path) -> tuple[ReaderFile, GraphSpec]:
    """reader.yaml and its graph.

    Raises ConfigError: everything wrong with the two.
    """
    problems = Problems()
    document = read_yaml(path / READER, problems)
    problems.raise_if_any()
    assert document is not None
    file = fill(ReaderFile, document, (), problems)
    problems.raise_if_any()
    assert file is not None
    place = document.value_place(("graph",))
    graph = find_file(file.graph, path)
    if graph is None:
        problems.add(place, f"there is no graph file '{file.graph}'.")
    problems.raise_if_any()
    assert graph is not None
    spec = read_graph(graph, problems, args=file.args, place=place, starts=False)
    problems.raise_if_any()
    assert spec is not None
    connect(spec, problems)
    problems.raise_if_any()
    return file, spec

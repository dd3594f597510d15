"""What an experiment file may say, section by section, and what counts where it is silent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from avssl.data.config import DataConfig
from avssl.speech.config import SpeechConfig


@dataclass(frozen=True)
class TrainConfig:
    """How to optimise; the same for every stage.

    Attributes:
        lr: learning rate after the warm-up.
        lr_rule: "absolute" takes ``lr`` as it is, "per_256" multiplies it by ``data.batch`` / 256.
        min_lr: learning rate at the last step.
        warmup: epochs of linear warm-up.
        weight_decay: of parameters with two or more dimensions, or of all: see ``decayed``.
        decayed: "matrices" spares biases, norms and scales; "all" spares nothing.
        betas, eps: of AdamW.
        clip: largest gradient norm of each module, or of each ``clip_group``; null for none.
        precision: "auto" is bf16 autocast on CUDA and fp32 on CPU.
        teacher_precision: of teachers that were read (``frozen_from``): "auto" is bf16 on a CUDA
            device that has it, else that of training.
        compile: run the graph through torch.compile.
        checkpoint_activations: recompute transformer blocks in the backward pass instead of keeping
            their insides.
        attention: "auto" takes xformers on CUDA where its kernels run, SDPA elsewhere; "plain" is
            the slow reference.
        parallel: under torchrun, "auto" and "ddp" copy the model, "fsdp" shards it.
        device: "auto" takes CUDA where there is one.
        threads: of the model on a CPU; null leaves a core to each loader process, more suit loaders
            that have little to do.
        save_every: steps between two checkpoints; one is also written at the end of a stage and on
            Ctrl-C.
        keep: newest checkpoints that stay, per stage.
        log_every: steps between two lines of progress and two measurements of the update norms.
    """

    lr: float = 1e-3
    lr_rule: Literal["absolute", "per_256"] = "absolute"
    min_lr: float = 0.0
    warmup: float = 1.0
    weight_decay: float = 1e-4
    decayed: Literal["matrices", "all"] = "matrices"
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    eps: float = 1e-8
    clip: float | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    teacher_precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = False
    checkpoint_activations: bool = False
    attention: Literal["auto", "xformers", "sdpa", "plain"] = "auto"
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    save_every: int = 500
    keep: int = 2
    log_every: int = 20

    def __post_init__(self) -> None:
        _above_zero(self, "lr", "eps", "save_every", "keep", "log_every")
        _not_below_zero(self, "min_lr", "warmup", "weight_decay")
        for name in ("clip", "threads"):
            if getattr(self, name) is not None:
                _above_zero(self, name)
        single = "fp32" in (self.precision, self.teacher_precision)
        if self.attention == "xformers" and (self.compile or single):
            raise ValueError(
                "attention is xformers, which runs neither in fp32 nor inside torch.compile: "
                "leave it at auto, or change precision, teacher_precision and compile."
            )
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be two numbers from 0 to below 1, found {self.betas}.")


@dataclass(frozen=True)
class ProbeConfig:
    """What is measured on held-out clips while training runs.

    Attributes:
        every: steps between two probes on the val split; 0 probes before and after a stage only.
        clips: val clips of such a probe.
        towers: batch input -> module.port that is probed, called without a mask.
        pictures: write pictures (reconstructions, similarity, curves) with each probe.
        final: measure the untrained model and the end of each stage on the test split, for the
            final table.
    """

    every: int = 500
    clips: int = 200
    towers: dict[str, str] = field(default_factory=dict)
    pictures: bool = True
    final: bool = True

    def __post_init__(self) -> None:
        _above_zero(self, "clips")
        _not_below_zero(self, "every")
        for name, source in self.towers.items():
            if source.count(".") != 1 or not all(source.split(".")):
                raise ValueError(
                    f"towers.{name} must be module.port, such as audio.pooled; found '{source}'."
                )


@dataclass(frozen=True)
class TeacherCacheConfig:
    """`teacher_cache` of a stage: what frozen teachers make of each clip is kept on disk.

    Attributes:
        folder: where; each run of the stage has a folder of its own in it, such as
            caches/mvd/student. Runs with the same teachers, data and crop share it.
        precision: in which targets are stored.
    """

    folder: str
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"

    def __post_init__(self) -> None:
        if not self.folder.strip() or "\0" in self.folder:
            raise ValueError(f"folder must name a folder, found {self.folder!r}.")


@dataclass(frozen=True)
class StageConfig:
    """One entry of `stages`.

    Attributes:
        graph: path of the graph file.
        epochs: passes over the train split.
        steps: number of steps, in place of epochs (``stages.stage1.steps=20`` for a short try).
        repeat: how often the stage runs; each run but the first has the one before as `previous`.
        args: arguments of this stage's graph, over those of the experiment.
        teacher_cache: keep the targets of frozen teachers on disk, from the first epoch on.
    """

    graph: str
    epochs: float | None = None
    steps: int | None = None
    repeat: int = 1
    args: dict[str, Any] = field(default_factory=dict)
    teacher_cache: TeacherCacheConfig | None = None

    def __post_init__(self) -> None:
        if self.epochs is None and self.steps is None:
            raise ValueError("give epochs or steps.")
        _above_zero(self, "epochs" if self.steps is None else "steps", "repeat")
        if self.repeat > 100:
            raise ValueError(f"repeat must be at most 100, found {self.repeat}.")


@dataclass(frozen=True)
class Experiment:
    """The whole file; `speech` is read by tools/finetune.py alone."""

    name: str
    run: str
    stages: dict[str, StageConfig]
    seed: int = 0
    args: dict[str, Any] = field(default_factory=dict)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    speech: SpeechConfig | None = None

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("stages is empty: name at least one stage.")
        if self.data.lengths is not None and self.train.lr_rule == "per_256":
            raise ValueError(
                "train.lr_rule is per_256, which counts the clips of data.batch, but with "
                "data.lengths a batch is counted in frames: give lr with lr_rule: absolute."
            )
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be from 0 to 2^32 - 1, found {self.seed}.")
        for name in self.stages:
            if not name.isidentifier() or name == "previous":
                raise ValueError(
                    f"stages.{name}: a stage is named by letters, digits and _, and not 'previous'."
                )


def _above_zero(item: object, *names: str) -> None:
    for name in names:
        if not getattr(item, name) > 0:
            raise ValueError(f"{name} must be above 0, found {getattr(item, name)}.")


def _not_below_zero(item: object, *names: str) -> None:
    for name in names:
        if not getattr(item, name) >= 0:
            raise ValueError(f"{name} must not be below 0, found {getattr(item, name)}.")

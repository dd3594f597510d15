"""What a fine-tuning file may say, section by section, and what counts where it is silent.

Defaults are off or neutral: each number of a recipe stands in its file, with its source.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from avssl.data.views import Views
from avssl.train.config import TrainConfig


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from the peak down to `min_lr` at the last step."""

    type: Literal["cosine"] = "cosine"
    min_lr: float = 0.0

    def __post_init__(self) -> None:
        _at_least(self, 0, "min_lr")


@dataclass(frozen=True)
class Steps:
    """The learning rate times `factor` after `start` epochs, and again every `every` epochs."""

    type: Literal["steps"]
    start: int = 5
    every: int = 1
    factor: float = 0.5

    def __post_init__(self) -> None:
        _at_least(self, 1, "start", "every")
        _share(self, "factor")


@dataclass(frozen=True)
class Optimisation:
    """The `train` section.

    Attributes:
        epochs: passes over the training clips; the figures are those of the last one.
        epoch_clips: clips of an epoch, null for as many as there are.
        repeats: how often each clip of a batch is read, each time augmented anew (repeated
            augmentation, arXiv 1901.09335); ``data.batch`` counts clips, not copies.
        balanced: draw clips so that rare classes come as often as frequent ones.
        lr, lr_rule: as in an experiment: "per_256" multiplies ``lr`` by ``data.batch`` / 256.
        schedule: how the learning rate falls after the warm-up.
        warmup: epochs of linear warm-up.
        weight_decay, betas, eps: of AdamW.
        clip: largest gradient norm of each module; null for none.
        layer_decay: each block of a tower learns this much slower than the one above it.
        head_lr_scale: the head's learning rate over the others'.
        head_std: deviation of the head's first weights.
        drop_path: of the last block of each tower and of the fusion, rising from 0.
        label_smoothing: share of the target that goes to all classes alike.
        average_from: from the end of this epoch on, the weights of epoch ends are averaged; null
            takes the last epoch's.
        save_every: epochs between two checkpoints from which the same command goes on.
    """

    epochs: int = 10
    epoch_clips: int | None = None
    repeats: int = 1
    balanced: bool = False
    lr: float = 1e-3
    lr_rule: Literal["absolute", "per_256"] = "absolute"
    schedule: Cosine | Steps = field(default_factory=Cosine)
    warmup: float = 0.0
    weight_decay: float = 0.0
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    clip: float | None = None
    layer_decay: float = 1.0
    head_lr_scale: float = 1.0
    head_std: float = 0.02
    drop_path: float = 0.0
    label_smoothing: float = 0.0
    average_from: int | None = None
    save_every: int | None = None
    log_every: int = 20
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        self.optimizer()  # checks what the two have in common
        _at_least(self, 1, "epochs", "epoch_clips", "save_every", "average_from", "log_every")
        _at_least(self, 1, "repeats")
        _at_least(self, 0, "warmup", "head_std")
        _share(self, "drop_path", "label_smoothing")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must be above 0, at most 1, found {self.layer_decay}.")
        if not self.head_lr_scale > 0:
            raise ValueError(f"head_lr_scale must be above 0, found {self.head_lr_scale}.")
        if self.average_from is not None and self.average_from > self.epochs:
            raise ValueError(
                f"average_from is {self.average_from}, but there are {self.epochs} epochs."
            )

    def optimizer(self) -> TrainConfig:
        """What the optimizer of experiments needs."""
        return TrainConfig(
            lr=self.lr,
            lr_rule=self.lr_rule,
            warmup=self.warmup,
            weight_decay=self.weight_decay,
            betas=self.betas,
            eps=self.eps,
            clip=self.clip,
            precision=self.precision,
            device=self.device,
        )


@dataclass(frozen=True)
class Mixup:
    """Mixing pairs of clips of a batch, inputs and labels: share Beta(alpha, alpha) of the one.

    Each clip draws its own share; timm's mixup draws one for the batch.
    """

    probability: float = 0.5
    alpha: float = 10.0

    def __post_init__(self) -> None:
        _share(self, "probability", most=1)
        if not self.alpha > 0:
            raise ValueError(f"alpha must be above 0, found {self.alpha}.")


@dataclass(frozen=True)
class CutMix:
    """Pasting a rectangle of another clip into the pictures (arXiv 1905.04899), by torchvision.

    The share of the one is Beta(alpha, alpha), one for the batch, as is the rectangle.
    `probability`: of a batch; such a batch is not mixed by `mixup`.
    """

    probability: float = 0.5
    alpha: float = 1.0

    def __post_init__(self) -> None:
        _share(self, "probability", most=1)
        if not self.alpha > 0:
            raise ValueError(f"alpha must be above 0, found {self.alpha}.")


@dataclass(frozen=True)
class Augmentation:
    """The `augment` section: what happens to prepared inputs in training.

    Attributes:
        mixup, cutmix: null for none.
        erase: probability that a rectangle of a clip's pictures, the same in all, is filled with
            noise (random erasing, arXiv 1708.04896, by torchvision: 0.02 to 0.33 of the area).
        frequency_mask, time_mask: a band of up to this many bins (rows of 10 ms) of the spectrogram
            is masked; 0 for none.
        fill: what masked cells hold: "mean", the mean of the data set, which is 0 after
            normalisation, or "zero", 0 before it.
        noise: uniform noise up to a level drawn from 0 to this, added to the normalised
            spectrogram.
        roll: turn the spectrogram round in time by a random amount (parts it from the picture).
    """

    mixup: Mixup | None = None
    cutmix: CutMix | None = None
    erase: float = 0.0
    frequency_mask: int = 0
    time_mask: int = 0
    fill: Literal["mean", "zero"] = "mean"
    noise: float = 0.0
    roll: bool = False

    def __post_init__(self) -> None:
        _at_least(self, 0, "frequency_mask", "time_mask", "noise")
        _share(self, "erase", most=1)


@dataclass(frozen=True)
class PatchMasks:
    """The `mask` section: shares of the patches that a tower does not see in training.

    Attributes:
        time, frequency: of the rows and columns of a spectrogram's patches.
        video: of the patches of pictures.
    """

    time: float = 0.0
    frequency: float = 0.0
    video: float = 0.0

    def __post_init__(self) -> None:
        _share(self, "time", "frequency", "video")


@dataclass(frozen=True)
class Finetune:
    """The whole file.

    Attributes:
        run: folder of the results.
        encoder: which encoder of the model: audio, video, audio_video, or a module's name.
        from_scratch: the same architecture with fresh weights.
        args: tower or fusion, by its name in the graph -> arguments of its graph file to change,
            such as `frames`.
        labels: "single" is one class a clip and cross entropy; "multi" any number of them, and
            binary cross entropy.
        held_out: the split that is tested where `fold` is null; `train` is trained on.
        fold: the rows whose column `fold_column` holds this are tested, and the others trained on;
            "all" takes one after the other.
        seeds: everything is done once for each.
        in_memory: read each clip once, as in a test, and keep it; for small sets and several
            epochs, folds or seeds. Not where clips are longer than the window: training takes a
            random place of them.
        data: changes to the data section of the model: `batch`, `workers`, `window`,
            `inputs.audio.frames` and so on.
        test: views of each held-out clip, whose probabilities are averaged.
    """

    name: str
    run: str
    encoder: str = "audio"
    from_scratch: bool = False
    args: dict[str, dict[str, Any]] = field(default_factory=dict)
    labels: Literal["single", "multi"] = "single"
    held_out: Literal["val", "test"] = "test"
    fold: int | str | None = None
    fold_column: str = "fold"
    seeds: list[int] = field(default_factory=lambda: [0])
    in_memory: bool = False
    data: dict[str, Any] = field(default_factory=dict)
    train: Optimisation = field(default_factory=Optimisation)
    augment: Augmentation = field(default_factory=Augmentation)
    mask: PatchMasks = field(default_factory=PatchMasks)
    test: Views = field(default_factory=Views)

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must name at least one, and none twice, found {self.seeds}.")
        if not all(0 <= seed < 2**32 for seed in self.seeds):
            raise ValueError(f"seeds must be from 0 to 2^32 - 1, found {self.seeds}.")


def _at_least(item: object, least: float, *names: str) -> None:
    for name in names:
        value = getattr(item, name)
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, found {value}.")


def _share(item: object, *names: str, most: float | None = None) -> None:
    for name in names:
        value = getattr(item, name)
        if not 0 <= value or (value >= 1 if most is None else value > most):
            below = "below 1" if most is None else f"to {most:g}"
            raise ValueError(f"{name} must be from 0 {below}, found {value}.")

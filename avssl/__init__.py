"""avssl: audio-visual self-supervised learning from YAML graphs of small PyTorch blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:  # torch takes seconds to import: whoever only reads a graph does without
    import os
    from collections.abc import Mapping, Sequence

    import torch

    from avssl.encoders.encoder import Encoder
    from avssl.encoders.load import Encoders

__version__ = "0.1.0"


@overload
def load(
    path: str | os.PathLike[str],
    *,
    module: None = None,
    stage: str | None = None,
    layout: str | None = None,
    allow: Sequence[str] = (),
    sizes: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
) -> Encoders: ...


@overload
def load(
    path: str | os.PathLike[str],
    *,
    module: str,
    stage: str | None = None,
    layout: str | None = None,
    allow: Sequence[str] = (),
    sizes: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
) -> Encoder: ...


def load(
    path: str | os.PathLike[str],
    *,
    module: str | None = None,
    stage: str | None = None,
    layout: str | None = None,
    allow: Sequence[str] = (),
    sizes: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
) -> Encoders | Encoder:
    """Encoders of a run folder, an exported folder or a checkpoint of another project.

        av = avssl.load("runs/mavil")
        av.audio(wav, sample_rate=44100)  # [B, D]
        av.video("clip.mp4", layer=2, pool="none")
        av.audio_video(["a.mp4", "b.mp4"])  # [2, 2 D]: both towers and their fusion

    Each encoder is built, and its weights are read, when it is first asked for.

    Args:
        path: what to load.
        module: one encoder by name; all of them without.
        stage: of a run folder, an instance such as "stage1" or "stage2.2"; the last one without.
        layout: of a foreign checkpoint; found out where that is unambiguous.
        allow: of a foreign checkpoint, patterns of tensors that may be missing or unexpected.
        sizes: of a foreign checkpoint, what its tensors do not tell, such as {"heads": 12}.
        device: where the encoders live.

    Raises:
        UserError: the path is none of these, has no such stage or encoder, or the weights do not
            fit.
    """
    from avssl.encoders.load import load_encoders

    encoders = load_encoders(
        path, stage=stage, layout=layout, allow=allow, sizes=sizes, device=device
    )
    return encoders if module is None else encoders[module]

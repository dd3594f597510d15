"""MAViL, AudioMAE and CAV-MAE as their recipes describe them, in plain torch.

Letters: B batch, N tokens, D width, T frames, F mel bins, H W height width.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from avssl.weights.foreign import read_foreign
from tests.weights.plain import (
    build,
    convolved,
    layers,
    mae_tower,
    norm,
    random_state,
    run_block,
    save,
    worst,
)
from tests.weights.shapes import audiomae, cavmae, mavil

CLOSE = 1e-4
HEADS = 3
SOUND = torch.randn(2, 1, 64, 32, generator=torch.Generator().manual_seed(1))  # [B, 1, T, F]
CLIP = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(2))  # [B, 3, T, H, W]
SMALL = {"heads": HEADS, "mel_bins": 32}


@pytest.mark.parametrize("fused", [2, 3])
def test_mavil(fused: int, tmp_path: Path) -> None:
    state = random_state(mavil(48, 3, fused, 16, 8, 8))
    sizes = {**SMALL, "image": 32}
    foreign = read_foreign(save(tmp_path, {"model": state}), sizes=sizes)
    assert foreign.layout == "mavil_avsuperb"
    graph = build(foreign)
    audio = mae_tower(state, "", SOUND, 3, heads=HEADS)
    video = mae_tower(state, "_v", CLIP, 3, heads=HEADS)
    ours_a, out_a = layers(graph.audio, x=SOUND)
    ours_v, out_v = layers(graph.video, x=CLIP)
    assert worst(ours_a, audio) < CLOSE and worst(ours_v, video) < CLOSE
    joint = [torch.cat([audio[-1], video[-1]], 1)]
    for number in range(fused):
        joint.append(run_block(state, f"blocks_av.{number}", joint[-1], heads=HEADS, eps=1e-6))
    ours, out = layers(graph.fusion, audio=out_a["tokens"], video=out_v["tokens"])
    assert worst([*ours, torch.cat([out["audio"], out["video"]], 1)], [*joint, joint[-1]]) < CLOSE


@pytest.mark.parametrize("fine_tuned", [False, True])
def test_audiomae(fine_tuned: bool, tmp_path: Path) -> None:
    state = random_state(audiomae(48, 3, 16, 8))
    kept = dict(state)
    if fine_tuned:  # the norm moves behind the mean
        kept |= {f"fc_norm.{kind}": kept.pop(f"norm.{kind}") for kind in ("weight", "bias")}
        kept |= random_state({"head.weight": (527, 48), "head.bias": (527,)})
    foreign = read_foreign(save(tmp_path, {"model": kept}), sizes=SMALL)
    assert foreign.layout == "audiomae"
    theirs = mae_tower(state, "", SOUND, 3, heads=HEADS)
    last = theirs[-1] if fine_tuned else norm(state, "norm", theirs[-1], 1e-6)
    found, out = layers(build(foreign).audio, x=SOUND)
    assert worst([*found, out["tokens"]], [*theirs, last]) < CLOSE


@pytest.mark.parametrize("classes", [None, 5])
def test_cavmae(classes: int | None, tmp_path: Path) -> None:
    state = random_state(cavmae(48, 2, 16, 8, 4, classes))
    path = save(tmp_path, {f"module.{name}": item for name, item in state.items()})
    foreign = read_foreign(path, sizes=SMALL)
    assert foreign.layout == "cavmae"
    assert "left out, as the layout says" in foreign.report[-1]
    graph, picture = build(foreign), CLIP[:, :, 0]
    own: dict[str, Tensor] = {}
    for module, end, x in (("audio", "_a", SOUND.transpose(2, 3)), ("video", "_v", picture)):
        patches = convolved(state, f"patch_embed{end}", x)  # audio: bins first, index = f * 4 + t
        theirs = [patches + state[f"pos_embed{end}"] + state[f"modality{end}"]]
        for number in range(2):
            name = f"blocks{end}.{number}"
            theirs.append(run_block(state, name, theirs[-1], heads=HEADS, eps=1e-5))
        own[module] = theirs[-1]
        theirs.append(run_block(state, "blocks_u.0", own[module], heads=HEADS, eps=1e-5, end=end))
        theirs.append(norm(state, f"norm{end}", theirs[-1], 1e-5))
        ours = SOUND if module == "audio" else picture.unsqueeze(2)
        found, out = layers(graph.get_submodule(module), x=ours)
        assert worst([*found, out["tokens"]], theirs) < CLOSE
        assert worst([out["own"], out["pooled"]], [own[module], theirs[-1].mean(1)]) < CLOSE
    joint = torch.cat([own["audio"], own["video"]], 1)
    joint = run_block(state, "blocks_u.0", joint, heads=HEADS, eps=1e-5)
    with torch.no_grad():
        batch = {"audio": SOUND, "video": picture.unsqueeze(2)}
        out = graph(batch, ["av.audio", "av.video"])
    fused = torch.cat([out["av.audio"], out["av.video"]], 1)
    assert worst([fused], [norm(state, "norm", joint, 1e-5)]) < CLOSE

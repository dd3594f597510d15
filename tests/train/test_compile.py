"""`train.compile` changes how fast a run is and nothing it computes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.train import tiny

FIRST_STAGE = tiny.MAVIL.partition("  stage2:")[0]


@pytest.mark.long
def test_a_compiled_run_has_the_losses_of_an_eager_one(
    tmp_path: Path, run: Callable[..., None]
) -> None:
    """Pictures on the way show 4 clips of the 8 in a batch, and must not have the step compiled
    again."""
    short = ("stages.stage1.steps=10", "probe.every=4", "probe.pictures=true")
    paths = {name: tiny.write(tmp_path / name, FIRST_STAGE) for name in ("eager", "compiled")}
    run(paths["eager"], *short)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    # masks are drawn inside the graph, by a generator of the compiler's own unless it is told so
    with torch._inductor.config.patch(fallback_random=True):
        run(paths["compiled"], *short, "train.compile=true")
    # a second one at step 2, for in its first call the graph keeps the plan of what it is asked
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2
    rows = {
        name: [row for row in tiny.metrics(tmp_path / name / "run") if "loss" in row]
        for name in paths
    }
    assert len(rows["eager"]) == 10
    for eager, compiled in zip(rows["eager"], rows["compiled"], strict=True):
        losses = [name for name in eager if name.split("/")[0] == "loss"]
        assert len(losses) > 1
        for name in losses:
            assert compiled[name] == pytest.approx(eager[name], abs=1e-4), (name, eager["step"])
    pictures = tmp_path / "compiled" / "run" / "pictures" / "stage1" / "step-000008"
    assert {"audio_picture.png", "video_picture.png"} <= {item.name for item in pictures.iterdir()}

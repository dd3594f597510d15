"""Methods that read single pictures train on a folder of pictures, and are probed on it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from avssl.eval.evaluation import Options, evaluate
from avssl.train.run import train

SMALL = (
    "args.width=24 args.depth=2 args.heads=2 args.image=32 data.batch=4 data.workers=0 "
    "train.device=cpu train.warmup=0 train.log_every=1 train.save_every=2 probe.clips=4 "
    "probe.final=false probe.pictures=false"
).split()
STAGES = {  # configuration -> its stages, and what else is made small
    "mae": (["mae"], ["args.decoder_width=16", "args.decoder_heads=2"]),
    "mocov3": (["mocov3"], ["args.hidden=16", "args.embedding=8"]),
    "mimco": (
        ["teacher", "student"],
        ["args.hidden=16", "args.embedding=8", "args.teacher_width=24"],
    ),
    "dmae": (
        ["teacher", "student"],
        ["args.decoder_width=16", "args.decoder_heads=2", "args.tap=1", "args.teacher_width=36",
         "stages.teacher.args={width: 36, depth: 2, heads: 3, tap: 1}"],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ImageNet's layout: dark and bright pictures of several sizes, one of them broken."""
    root, random = tmp_path_factory.mktemp("imagenet"), np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4), ("test", 4)):
        for number in range(2 * count):
            level = ("dark", "bright")[number % 2]
            path = root / split / level / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            low = 150 * (number % 2)
            size = (40 + 3 * number, 50, 3)
            Image.fromarray(random.integers(low, low + 100, size, np.uint8)).save(path)
    (root / "train" / "dark" / "broken.jpg").write_text("no picture")
    return root


@pytest.mark.parametrize("name", STAGES)
def test_an_image_folder_trains(
    folder: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stages, sizes = STAGES[name]
    inputs = ["view1", "view2", "image"] if name in ("mocov3", "mimco") else ["image"]
    train(
        Path(f"configs/{name}.yaml"),
        [*SMALL, *sizes, *(f"data.inputs.{item}.size=32" for item in inputs),
         *(f"stages.{stage}.epochs=null" for stage in stages),
         *(f"stages.{stage}.steps=2" for stage in stages),
         f"data.source={folder}", f"data.cache={tmp_path / 'cache'}", f"run={tmp_path / 'run'}",
         f"probe.final={str(name == 'dmae').lower()}"],
    )  # fmt: skip
    shown = capsys.readouterr().out
    assert "train: 16 clips serve, 1 are left out" in shown
    assert "train/dark/broken.jpg: damaged or not a picture" in shown
    if name == "dmae":  # of another size than its teacher, so it has a row to compare with
        rows = json.loads((tmp_path / "run" / "results.json").read_text())
        assert list(rows) == ["untrained", "untrained student", "teacher", "student"]
        ranks = [row["rankme"]["image"] for row in rows.values()]
        assert len(set(ranks)) == 4
    if name != "mae":
        return
    found = evaluate(
        Options(
            model=str(tmp_path / "run"), task="linear", data=str(folder), split="val", workers=0,
            batch=4, device="cpu",
        )
    )  # fmt: skip
    assert found.clips.classes == ["bright", "dark"]
    assert found.scores["trained"]["image"].figures["top1"] == 1.0
    assert found.counts["fitted"].used == 16 and found.counts["scored"].used == 8
    assert [path for path, _ in found.counts["fitted"].left_out] == ["train/dark/broken.jpg"]

"""The tool: folders that are whole or not there, sentences for mistakes, cards."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import avssl
from avssl.errors import UserError
from avssl.export import encoder_folder
from avssl.export.command import export
from tests.export.conftest import trained, written
from tests.train import tiny

TOOL = Path(__file__).parents[2] / "tools" / "export.py"

PLUGIN = '''\
"""A block of the user's own."""

import torch
from torch import Tensor, nn

from avssl.registry import register


@register("scale_tokens")
class ScaleTokens(nn.Module):
    """Multiplies tokens by a learned number."""

    outputs = ("tokens",)

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(1))

    def init_weights(self) -> None:
        nn.init.ones_(self.scale)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale
'''


def run_tool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run tools/export.py in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TOOL.parents[1])}
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_tool_writes_once_and_refuses_what_is_in_the_way(mavil: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "audio"
    first = run_tool(mavil, "--module", "audio", "--format", "safetensors", "--out", out)
    assert first.returncode == 0, first.stderr
    assert "largest difference 0" in first.stdout
    before = content(out)
    assert sorted(before) == [
        "card.md", "encoder.yaml", "export.json", "graphs/mavil_stage2.yaml", "model.safetensors",
        "towers/vit_audio.yaml",
    ]  # fmt: skip
    assert os.listdir(out.parent) == ["audio"]  # nothing half written is left
    assert out.stat().st_mode & 0o777 == 0o777 & ~_umask()
    again = run_tool(mavil, "--module", "audio", "--format", "safetensors", "--out", out)
    assert again.returncode == 0 and "already" in again.stdout
    other = run_tool(mavil, "--module", "video", "--format", "safetensors", "--out", out)
    assert other.returncode == 2
    assert "holds another export (module is 'audio' there" in other.stderr
    assert content(out) == before


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_mistakes_are_sentences(mavil: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here first")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    untrained = tmp_path / "untrained"
    for name in ("config.yaml", "graphs", "towers"):
        source, target = mavil / name, untrained / name
        for path in [source, *source.rglob("*")]:
            if path.is_file():
                place = target / path.relative_to(source) if source.is_dir() else target
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(path.read_bytes())
    out = tmp_path / "out"
    for path, module, kind, where, words in (
        (mavil, "sound", "onnx", out, r"no encoder 'sound': it has audio, video, audio_video"),
        (mavil, "audio", "tflite", out, r"no format 'tflite': choose one of safetensors, timm"),
        (mavil, "audio", "safetensors", tmp_path / "file", r"--out .*file is there already"),
        (mavil, "audio", "safetensors", tmp_path / "file" / "in", r"lies inside a file"),
        (mavil, "audio", "safetensors", tmp_path / "full", r"--out .*full is there already"),
        (untrained, "audio", "safetensors", out, r"holds no intact checkpoint of stage2"),
        (tmp_path / "nowhere", "audio", "safetensors", out, r"nowhere does not exist"),
    ):
        with pytest.raises(UserError, match=words):
            export(path, module=module, kind=kind, out=where)
    assert not out.exists()
    assert content(tmp_path / "full") == {"mine.txt": b"mine"}
    assert (tmp_path / "file").read_text() == "here first"
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
    with pytest.raises(UserError, match="its stages are stage1, stage2"):
        export(mavil, module="audio", kind="safetensors", out=out, stage="stage3")


def test_an_export_that_differs_is_not_shown(
    mavil: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_folder, "check", lambda source, folder: 0.25)
    with pytest.raises(UserError, match=r"differs from the encoder by 0\.25"):
        export(mavil, module="audio", kind="safetensors", out=tmp_path / "out")
    monkeypatch.setattr(encoder_folder, "check", lambda source, folder: float("nan"))
    with pytest.raises(UserError, match="differs from the encoder by nan"):
        export(mavil, module="audio", kind="safetensors", out=tmp_path / "out")

    def stopped(source: object, folder: Path) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(encoder_folder, "check", stopped)
    with pytest.raises(KeyboardInterrupt):
        export(mavil, module="audio", kind="safetensors", out=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(mavil: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [sys.executable, str(TOOL), str(mavil), "--module=audio", "--format=safetensors"]
    limited = subprocess.run(
        [*arguments, f"--out={out}"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TOOL.parents[1])},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)),
    )
    assert limited.returncode == 2, limited.stderr
    assert "Traceback" not in limited.stderr and "too large" in limited.stderr
    assert not list(tmp_path.iterdir())


def test_an_incomplete_export_is_not_taken_for_whole(mavil: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(mavil, module="audio", kind="safetensors", out=out)
    (out / "model.safetensors").unlink()
    with pytest.raises(UserError, match="is there already"):
        export(mavil, module="audio", kind="safetensors", out=out)


def test_an_export_of_an_export_and_of_another_stage(mavil: Path, tmp_path: Path) -> None:
    export(mavil, module="audio_video", kind="safetensors", out=tmp_path / "a", stage="stage1")
    export(tmp_path / "a", module="video", kind="safetensors", out=tmp_path / "b")
    wanted = avssl.load(mavil, module="video", stage="stage1")
    found = avssl.load(tmp_path / "b", module="video")
    x = {"video": torch.randn(2, 3, 4, 32, 32)}
    assert torch.equal(found.encode(x), wanted.encode(x))


def killed(run: Path, out: Path) -> subprocess.Popen[str]:
    """A process that hangs in the middle of an export, once it got there."""
    code = (
        "import sys, time\n"
        "from avssl.export import encoder_folder\n"
        "from avssl.export.command import export\n"
        "def write(source, folder):\n"
        "    (folder / 'half').write_text('half')\n"
        "    print('there', flush=True)\n"
        "    time.sleep(600)\n"
        "encoder_folder.write = write\n"
        "export(sys.argv[1], module='audio', kind='safetensors', out=sys.argv[2])\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TOOL.parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(run), str(out)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None and process.stdout.readline() == "there\n"
    return process


def test_what_a_killed_export_left_is_removed_by_the_next(mavil: Path, tmp_path: Path) -> None:
    (tmp_path / ".out.settings").mkdir()  # of the user
    with killed(mavil, tmp_path / "out") as process:
        hidden = set(os.listdir(tmp_path)) - {".out.settings"}
        assert len(hidden) == 1
        # of another name, and of the same while its process runs: nothing is taken away
        export(mavil, module="audio", kind="safetensors", out=tmp_path / "other")
        export(mavil, module="audio", kind="safetensors", out=tmp_path / "out")
        assert {*hidden, ".out.settings", "other", "out"} == set(os.listdir(tmp_path))
        process.kill()
    assert (tmp_path / hidden.pop()).is_dir()
    # also where the export is there already
    assert export(mavil, module="audio", kind="safetensors", out=tmp_path / "out") is None
    assert {".out.settings", "other", "out"} == set(os.listdir(tmp_path))


def plugin_run(folder: Path, block: str, plugin: str) -> Path:
    """A run whose audio tower ends in a block of the user's own."""
    text = tiny.EXPERIMENT.replace(
        "  second: {{graph: graphs/promoted.yaml, steps: 6, repeat: 2}}\n", ""
    )
    path = tiny.write(folder, text.replace("epochs: 1.5", "steps: 2"))
    student = tiny.STUDENT.replace("towers/vit_audio.yaml", "towers/scaled.yaml")
    # complete inputs: masks leave tokens out
    student = student.replace("keep: m.keep", "").replace("{x: batch.audio, }", "{x: batch.audio}")
    student = student.replace("  m: {call: mask, in: {like: batch.audio}}\n", "")
    student = student.replace(
        '  mask: {type: random_mask, ratio: "${args.dropped}", patch: [16, 16]}\n', ""
    )
    graphs = path.parent / "graphs"
    (graphs / "student.yaml").write_text(f"plugins: [../blocks/scale.py]\n{student}")
    (path.parent / "blocks").mkdir()
    (path.parent / "blocks" / "scale.py").write_text(plugin)
    tower = (path.parent / "towers" / "vit_audio.yaml").read_text()
    tower = tower.replace("modules:\n", f"modules:\n  scale: {{type: {block}}}\n")
    tower = tower.replace(
        "pooled: {call: pool, in: {x: encoded}}",
        "scaled: {call: scale, in: {x: encoded}}\n  pooled: {call: pool, in: {x: scaled}}",
    )
    tower = tower.replace("tokens: encoded ", "tokens: scaled ")
    (path.parent / "towers" / "scaled.yaml").write_text(tower)
    return trained(path)


def test_plugins_and_arguments_come_along(tmp_path: Path) -> None:
    """A tower with a block of the user's own, in a run whose configuration is gone afterwards."""
    run = plugin_run(tmp_path, "scale_tokens", PLUGIN)
    out = tmp_path / "out"
    assert export(run, module="audio", kind="safetensors", out=out) == 0
    assert (out / "blocks" / "scale.py").read_text() == PLUGIN
    wanted = avssl.load(run, module="audio")
    x = {"audio": torch.randn(2, 1, 32, 32)}
    expected = wanted.encode(x)
    run.rename(tmp_path / "gone")
    found = avssl.load(out.rename(tmp_path / "moved"), module="audio")
    assert torch.equal(found.encode(x), expected)
    with pytest.raises(UserError, match="holds a ScaleTokens"):
        export(tmp_path / "moved", module="audio", kind="timm", out=tmp_path / "timm")


TABLE_PLUGIN = '''\
"""A block of the user's own that has a table, too, and does something else with it."""

import torch
from torch import Tensor, nn

from avssl.registry import register


@register("gate_tokens")
class GateTokens(nn.Module):
    """Multiplies each of 4 tokens by a row of a table."""

    outputs = ("tokens",)

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(1, 4, 1))

    def init_weights(self) -> None:
        nn.init.uniform_(self.table, 0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :-4], x[:, -4:] * self.table], dim=1)
'''


def test_onnx_of_a_block_with_a_table_of_its_own(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    run = plugin_run(tmp_path, "gate_tokens", TABLE_PLUGIN)
    assert export(run, module="audio", kind="onnx", out=tmp_path / "out") <= 1e-4
    session = runtime.InferenceSession(tmp_path / "out" / "model.onnx")
    x = torch.randn(2, 1, 32, 32)
    wanted = avssl.load(run, module="audio").encode({"audio": x})
    found = session.run(None, {"audio": x.numpy()})[-1]
    assert torch.allclose(torch.from_numpy(found), wanted, atol=1e-4)
    assert session.get_inputs()[0].shape[1:] == [1, 32, 32]  # its length cannot change
    assert "audio has this length" in (tmp_path / "out" / "card.md").read_text()


def test_the_card_says_how_to_use_it(mavil: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    run = Path(shutil.copytree(mavil, tmp_path / "run"))
    (run / "results.json").write_text(
        json.dumps(
            {
                "stage2": {
                    "clips": 400,
                    "majority": 0.125,
                    "linear": {"audio": 0.4875, "both": 0.67},
                    "retrieval": {"audio_to_video": {"r1": 0.1, "clips": 400}},
                }
            }
        )
    )
    out = tmp_path / "out"
    export(run, module="audio", kind="hf", out=out)
    text = (out / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["library_name"] == "transformers" and "avssl" in front["tags"]
    fingerprint = avssl.load(mavil, module="audio").fingerprint
    for words in (
        "48.8 %", "12.5 %", "linear probe, audio", "10.0 %", "stage: stage2", fingerprint,
        "16000 Hz", "(x + 4.26774) / (2 x 4.569)", "`hidden_states[-1]`",
        "width: 16", "Apache-2.0", "never read",
    ):  # fmt: skip
        assert words in text, words
    assert str(tmp_path) not in text
    # the example runs as it stands
    code = re.search(r"```python\n(.*?)```", text, re.S).group(1)
    names = {"wav": torch.randn(32000).numpy()}
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        exec(code, names)
    finally:
        os.chdir(here)
    assert names["pixels"].shape == (1, 1, 64, 32)


@pytest.mark.parametrize("kind", ["safetensors", "timm", "onnx", "avsuperb"])
def test_examples_of_cards_run(
    kind: str, mavil: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in {"timm": ["timm"], "onnx": ["onnx", "onnxruntime"]}.get(kind, []):
        pytest.importorskip(package)
    export(mavil, module="audio", kind=kind, out=tmp_path / "out")
    card = tmp_path / "out" / ("README.md" if kind == "timm" else "card.md")
    code = re.search(r"```python\n(.*?)```", card.read_text(), re.S).group(1)
    x = torch.randn(1, 1, 64, 32)
    names = {
        "waveform": torch.randn(44100),
        "wav": torch.randn(16000),
        "pictures": torch.zeros(4, 3, 32, 32, dtype=torch.uint8),
        "x": x,
        "audio": x.numpy(),
    }
    monkeypatch.chdir(tmp_path)
    with torch.no_grad():
        exec(code, names)
    sys.modules.pop("hubconf", None)


SOURCE = "https://github.com/someone/model"
DATA = "AudioSet-2M / Kinetics-400, no labels"


@pytest.mark.parametrize(
    ("licence", "front"),
    [
        ("CC BY-NC 4.0", {"license": "cc-by-nc-4.0"}),
        ("Apache-2.0 (the repository's LICENSE)", {"license": "apache-2.0"}),
        ("all rights reserved", {"license": "other", "license_name": "all-rights-reserved"}),
        ("MIT for the code, none for the weights", {"license": "other"}),
        (None, {"license": "other"}),
    ],
)
def test_the_card_of_foreign_weights_says_whose_they_are(
    licence: str | None, front: dict[str, str], tmp_path: Path
) -> None:
    pytest.importorskip("timm")
    description = {"layout": "mae", "source": SOURCE, "data": DATA}
    if licence is not None:
        description["licence"] = licence
    path = written(
        tmp_path / "in",
        "image",
        {"image": 32},
        description=description,
        video={"type": "frames", "frames": 1, "size": 32, "seconds": 0.04},
    )
    export(path, module="image", kind="safetensors", out=tmp_path / "copy")
    for start, kind in ((path, "timm"), (tmp_path / "copy", "timm"), (path, "safetensors")):
        out = tmp_path / f"{start.name}_{kind}"
        export(start, module="image", kind=kind, out=out)
        text = (out / ("README.md" if kind == "timm" else "card.md")).read_text()
        last = text.partition("## Licence")[2]
        assert SOURCE in last and DATA in last and "another project" in last
        assert (licence or "not known here") in last
        assert "belong to whoever trained them" not in last
        if kind == "timm":
            fields = yaml.safe_load(text.split("---")[1])
            found = {key: fields[key] for key in ("license", "license_name") if key in fields}
            assert found == front


def test_the_card_of_a_run_speaks_of_no_other_project(mavil: Path, tmp_path: Path) -> None:
    export(mavil, module="audio", kind="safetensors", out=tmp_path / "out")
    assert "another project" not in (tmp_path / "out" / "card.md").read_text()

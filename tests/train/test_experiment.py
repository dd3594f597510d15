"""Experiment files: every mistake at once, with its place, before any data is read."""

from pathlib import Path

import pytest

from avssl.errors import ConfigError
from avssl.train.experiment import load_experiment
from tests.train import tiny

SHIPPED = sorted(
    path
    for path in tiny.CONFIGS.rglob("*.yaml")
    if "\nstages:" in (text := path.read_text()) and "checkpoints/" not in text
)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_experiments_are_in_order(path: Path) -> None:
    loaded = load_experiment(path)
    assert loaded.instances
    assert set(loaded.config.probe.towers) <= set(loaded.config.data.inputs)


def test_stage_instances_and_what_they_may_refer_to(tmp_path: Path) -> None:
    loaded = load_experiment(tiny.write(tmp_path), ["stages.second.repeat=3"])
    names = [item.name for item in loaded.instances]
    assert names == ["first", "second", "second.2", "second.3"]
    references = loaded.references(loaded.instances[3], lambda name: {"weights of": name})
    assert references["previous"].weights() == {"weights of": "second.2"}
    assert references["first"].weights() == {"weights of": "first"}
    assert "second.3" not in references


def test_every_mistake_is_reported_at_once_with_its_place(tmp_path: Path) -> None:
    text = (
        tiny.EXPERIMENT.replace("lr: 1.0e-2", "lr: fast, momentun: 0.9")
        .replace("batch: 8", "bach: 8")
        .replace("every: 0", "towers: {{audio: audio.poold, vidio: audio.pooled}}")
        .replace("steps: 6,", "steps: 6, args: {{widht: 3}},")
        + "  third: {{graph: graphs/studnt.yaml, epochs: 1}}\n"
    )
    student = tiny.STUDENT.replace("b: t.pooled", "b: t.poolled")
    path = tiny.write(tmp_path, text, student=student)
    with pytest.raises(ConfigError) as error:
        load_experiment(path, ["train.clipp=1", "args.depth=2", "nonsense"])
    messages = error.value.messages
    expected = [
        (r"tiny.yaml:5:3", "unknown key 'bach' in 'data'. Did you mean 'batch'?"),
        (r"tiny.yaml:9:13", "'train.lr' must be a number, found 'fast'"),
        (r"tiny.yaml:9:19", "unknown key 'momentun'"),
        (r"tiny.yaml:10:25", "module 'audio' has no output 'poold'. Did you mean 'pooled'?"),
        (r"tiny.yaml:13:58", "has no argument 'widht'. Did you mean 'width'?"),
        (r"tiny.yaml:14:18", "graph file 'graphs/studnt.yaml'"),
        (r"tiny.yaml:14:18", "Did you mean 'graphs/student.yaml'?"),
        (r"student.yaml:18:36", "has no output 'poolled'"),
        (r"command line 'train.clipp=1'", "Did you mean 'clip'?"),
        (r"command line 'nonsense'", "expected key=value"),
    ]
    for place, part in expected:
        assert any(place in m and part in m for m in messages), (place, part, messages)
    assert len(messages) == len(expected) - 1  # one of them has two parts, and nothing follows on


def test_a_block_that_returns_nothing_hides_no_other_mistake(tmp_path: Path) -> None:
    student = "plugins: [idle.py]\n" + tiny.STUDENT.replace("{type: linear,", "{type: idle,")
    path = tiny.write(tmp_path, tiny.EXPERIMENT.replace("clip: 1.0", "clpi: 1.0"), student=student)
    (tmp_path / "configs" / "graphs" / "idle.py").write_text(
        "from torch import Tensor, nn\n"
        "from avssl.registry import register\n"
        "@register('idle')\n"
        "class Idle(nn.Module):\n"
        "    outputs = ('x',)\n"
        "    def __init__(self, width: int, out: int) -> None:\n"
        "        super().__init__()\n"
        "    def forward(self, x: Tensor) -> Tensor:\n"
        "        pass\n"
    )
    with pytest.raises(ConfigError) as error:
        load_experiment(path)
    messages = error.value.messages
    assert any("tiny.yaml:9:" in m and "unknown key 'clpi'" in m for m in messages), messages
    returned = "node 'p': 'head' returned NoneType, not ['x']."
    assert any("student.yaml:16:3" in m and returned in m for m in messages), messages
    assert len(messages) == 2


def test_probes_and_inputs_are_held_against_the_graphs(tmp_path: Path) -> None:
    text = tiny.EXPERIMENT.replace("frames: 32}}", "frames: 48}}").replace(
        "every: 0", "towers: {{audio: audio.poold}}"
    )
    with pytest.raises(ConfigError) as error:
        load_experiment(tiny.write(tmp_path, text))
    said = "\n".join(error.value.messages)
    assert "data.inputs.audio makes [B, 1, 48, 32], but" in said and "takes [B, 1, 32, 32]" in said
    assert "module 'audio' has no output 'poold'. Did you mean 'pooled'?" in said


def test_the_first_stage_has_no_previous_one(tmp_path: Path) -> None:
    text = tiny.EXPERIMENT.replace("graphs/student.yaml", "graphs/promoted.yaml")
    with pytest.raises(ConfigError, match=r"promoted\.yaml:9:\d+: no stage 'previous' stands"):
        load_experiment(tiny.write(tmp_path, text))


def test_a_teacher_must_fit_the_stage_it_comes_from(tmp_path: Path) -> None:
    """Stage 2 is run on the meta device with the width that stage 1 trains."""
    text = tiny.EXPERIMENT.replace("steps: 6,", "steps: 6, args: {{width: 32}},")
    with pytest.raises(ConfigError) as error:
        load_experiment(tiny.write(tmp_path, text))
    assert "promoted.yaml" in str(error.value) and "match" in str(error.value)


def test_arguments_reach_every_stage_and_a_stage_may_replace_them(tmp_path: Path) -> None:
    path = tiny.write(tmp_path)
    loaded = load_experiment(path, ["args.depth=1", "stages.second.args.temperature=0.5"])
    first, second = loaded.instances[0].spec, loaded.instances[1].spec
    assert (first.arguments["depth"], second.arguments["depth"]) == (1, 1)
    assert (first.arguments["temperature"], second.arguments["temperature"]) == (0.2, 0.5)


def test_null_leaves_a_stage_out(tmp_path: Path) -> None:
    path = tiny.write(tmp_path)
    assert [item.name for item in load_experiment(path, ["stages.second=null"]).instances] == [
        "first"
    ]
    with pytest.raises(ConfigError, match=r"promoted\.yaml:9:\d+: no stage 'previous' stands"):
        load_experiment(path, ["stages.first=null"])
    with pytest.raises(ConfigError, match=r"tiny\.yaml:1:1: stages is empty: name at least one"):
        load_experiment(path, ["stages.first=null", "stages.second=null"])


def test_what_only_a_stage_that_is_left_out_uses_goes_with_it() -> None:
    path, teacher = tiny.CONFIGS / "mimco.yaml", "args.teacher=a.pt:image"
    whole = load_experiment(path, shapes=False).config
    assert {"view1", "view2"} < set(whole.data.inputs) and "embedding" in whole.args
    with pytest.raises(ConfigError, match=r"a\.pt"):  # that there is no such file is all
        load_experiment(path, ["stages.teacher=null", teacher])
    mvd = load_experiment(tiny.CONFIGS / "mvd.yaml", ["stages.student=null"]).config
    assert set(mvd.stages) == {"image_teacher", "video_teacher"}
    assert "image_features" not in mvd.args and set(mvd.data.inputs) == {"image", "video"}
    image = load_experiment(
        tiny.CONFIGS / "mvd.yaml", ["stages.student=null", "stages.video_teacher=null"]
    ).config
    assert set(image.data.inputs) == set(image.probe.towers) == {"image"}
    with pytest.raises(ConfigError) as error:  # `mask_patch` of the file goes, what is given stays
        load_experiment(path, ["stages.student=null", "args.mask_patches=3"])
    assert "has no argument 'mask_patches'" in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "overrides", "said"),
    [
        (
            "mocov3",
            [],
            "'mocov3' needs at least 2 clips in a batch, found data.batch: 1; 'first' co",
        ),
        ("mimco", ["args.image_loss=cosine"], "'student' needs at least 2 clips in a batch"),
        ("mimco", ["args.image_loss=cosine"], "Expected more than 1 value per channel"),
    ],
)
def test_a_batch_of_one_clip_where_clips_are_compared(
    name: str, overrides: list[str], said: str
) -> None:
    with pytest.raises(ConfigError, match=r"command line 'data\.batch=1'") as error:
        load_experiment(tiny.CONFIGS / f"{name}.yaml", [*overrides, "data.batch=1"])
    assert any(said in message for message in error.value.messages)


def test_a_batch_of_one_clip_is_enough_elsewhere() -> None:
    assert load_experiment(tiny.CONFIGS / "mae.yaml", ["data.batch=1"]).config.data.batch == 1

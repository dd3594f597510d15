"""Mistakes in a graph: all reported together, each once, at its place, with a suggestion."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from avssl.errors import ConfigError
from avssl.graph.check import check_graph
from avssl.graph.source import nearest

ROOT = Path(__file__).parents[2]

GOOD = """\
args: {width: 16, ratio: 0.5}
inputs:
  audio: [B, 1, 32, 16]
modules:
  stem: {type: patch_embed_2d, channels: 1, width: "${args.width}", patch: [16, 16]}
  mask: {type: random_mask, ratio: "${args.ratio}", patch: [16, 16]}
  blocks: {type: transformer, width: "${args.width}", depth: 1, heads: 2}
  pool: {type: pool_tokens}
  cls: {type: cls_token, width: "${args.width}"}
  nce: {type: info_nce, temperature: 0.1}
nodes:
  m1: {call: mask, in: {like: batch.audio}}
  m2: {call: mask, in: {like: batch.audio}}
  k1: {call: stem, in: {x: batch.audio, keep: m1.keep}}
  k2: {call: stem, in: {x: batch.audio, keep: m2.keep}}
  c1: {call: cls, in: {x: k1}}
  c2: {call: cls, in: {x: k2}}
  t1: {call: blocks, in: {x: c1}}
  t2: {call: blocks, in: {x: c2}}
  a: {call: pool, in: {x: t1}}
  b: {call: pool, in: {x: t2}}
losses:
  nce: {call: nce, weight: 1.0, in: {a: a, b: b}}
"""


def messages(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "graph.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        check_graph(path)
    return [message.removeprefix(f"{path}:") for message in caught.value.messages]


def test_good_graph_passes(tmp_path: Path) -> None:
    path = tmp_path / "graph.yaml"
    path.write_text(GOOD)
    report = check_graph(path)
    assert report.trace is not None
    assert report.trace.shapes["a"] == {"pooled": (2, 16)}


ONE_MISTAKE = {
    "unknown section": (
        "losses:",
        "lossses:",
        "22:1: unknown section 'lossses'. Did you mean 'losses'?",
    ),
    "unknown block": (
        "type: pool_tokens",
        "type: pool_token",
        "8:16: there is no block 'pool_token'. Did you mean 'pool_tokens'?",
    ),
    "unknown argument": (
        "heads: 2}",
        "head: 2}",
        "7:65: block 'transformer' has no argument 'head'. Did you mean 'heads'?",
    ),
    "wrong type": (
        "depth: 1,",
        "depth: one,",
        "7:62: 'depth' of block 'transformer' must be a whole number, found 'one'.",
    ),
    "unknown args": (
        '"${args.ratio}"',
        '"${args.ration}"',
        "6:36: no argument 'ration' in 'args'. Did you mean 'ratio'?",
    ),
    "unknown module": (
        "k1: {call: stem,",
        "k1: {call: stm,",
        "14:14: there is no module 'stm'. Did you mean 'stem'?",
    ),
    "unknown node": ("{x: k1}", "{x: k11}", "16:27: there is no node 'k11'. Did you mean 'k1'?"),
    "unknown output": (
        "keep: m1.keep",
        "keep: m1.keeps",
        "14:47: node 'm1' has no output 'keeps'. Did you mean 'keep'?",
    ),
    "several outputs": (
        "keep: m1.keep",
        "keep: m1",
        "14:47: 'm1' has several outputs; name one of keep, restore, mask.",
    ),
    "unknown port": (
        "in: {a: a, b: b}",
        "in: {a: a, bb: b}",
        "23:44: 'nce' has no port 'bb'.",
    ),
    "unconnected port": (
        "in: {a: a, b: b}",
        "in: {a: a}",
        None,
    ),
    "double key": (
        "  pool: {type: pool_tokens}\n",
        "  pool: {type: pool_tokens}\n  pool: {type: pool_tokens}\n",
        "9:3: key 'pool' stands twice; first in line 8.",
    ),
    "module never called": (
        "  pool: {type: pool_tokens}\n",
        "  pool: {type: pool_tokens}\n  spare: {type: pool_tokens}\n",
        "9:3: module 'spare' is never called.",
    ),
    "node nobody reads": (
        "losses:",
        "  spare: {call: pool, in: {x: t1}}\nlosses:",
        "22:3: nothing reads the outputs of node 'spare'.",
    ),
    "reads below": (
        "in: {x: c1}}",
        "in: {x: t2}}",
        None,
    ),
    "shape": (
        'cls: {type: cls_token, width: "${args.width}"}',
        "cls: {type: cls_token, width: 8}",
        None,
    ),
    "detached loss": (
        "in: {a: a, b: b}",
        "in: {a: a, b: b}, detach: [a, b]",
        None,
    ),
    "ratio": ("ratio: 0.5", "ratio: 1.5", None),
    "indivisible": ("heads: 2", "heads: 3", None),
    "weight below 0": (
        "weight: 1.0",
        "weight: -1.0",
        "23:28: weight of loss 'nce': it must be 0 or more, found -1.0.",
    ),
    "weight that falls below 0": (
        "weight: 1.0",
        "weight: {kind: linear, start: 1, end: -1}",
        None,
    ),
    "weight": ("weight: 1.0", "weight: big", None),
    "input": ("audio: [B, 1, 32, 16]", "audio: [1, 32, 16]", None),
    "lr_scale": ("heads: 2}", "heads: 2, lr_scale: fast}", None),
    "uphill": ("heads: 2}", "heads: 2, lr_scale: -1}", None),
    "no layer_decay": ("heads: 2}", "heads: 2, layer_decay: 0}", None),
}


@pytest.mark.parametrize("name", ONE_MISTAKE)
def test_one_mistake_gives_one_message(name: str, tmp_path: Path) -> None:
    before, after, expected = ONE_MISTAKE[name]
    assert before in GOOD
    found = messages(tmp_path, GOOD.replace(before, after, 1))
    assert len(found) == 1, found
    if expected is not None:
        assert found[0].startswith(expected), found


def test_shape_mistake_names_node_shapes_and_sources(tmp_path: Path) -> None:
    (found,) = messages(
        tmp_path, GOOD.replace('cls_token, width: "${args.width}"', "cls_token, width: 8")
    )
    assert "node 'c1' fails" in found
    assert "x [2, 1, 16] from k1.tokens" in found


def test_cut_gradient_names_the_cutting_node(tmp_path: Path) -> None:
    text = GOOD.replace("t1: {call: blocks, in: {x: c1}}", "t1: {call: blocks, in: {x: c1}}")
    text = text.replace("a: {call: pool, in: {x: t1}}", "a: {call: pool, in: {x: t1}, detach: [x]}")
    text = text.replace("b: {call: pool, in: {x: t2}}", "b: {call: pool, in: {x: t2}, detach: [x]}")
    found = messages(tmp_path, text)
    (loss,) = [message for message in found if "reaches no trained module" in message]
    assert "detaches 'x'" in loss
    assert ":20:" in loss or ":21:" in loss


SIX = (
    GOOD.replace('ratio: "${args.ratio}"', "ration: 0.5")
    .replace("type: pool_tokens", "type: pool_token")
    .replace("keep: m1.keep", "keep: m1.kep")
    .replace("{call: cls, in: {x: k2}}", "{call: clss, in: {x: k2}}")
    .replace("in: {a: a, b: b}", "in: {a: a, b: bb}")
    .replace("losses:", "  t3: {call: blocks, in: {x: c2}}\nlosses:")
)


def test_six_mistakes_give_six_messages_fast(tmp_path: Path) -> None:
    path = tmp_path / "six.yaml"
    path.write_text(SIX)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, str(ROOT / "tools/graph.py"), "check", str(path)],
            capture_output=True,
            text=True,
        )
        times.append(time.perf_counter() - start)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith(str(path))]
    places = [int(line.removeprefix(f"{path}:").split(":")[0]) for line in lines]
    assert places == [6, 8, 14, 17, 22, 24], done.stderr
    suggestions = ["'ratio'", "'pool_tokens'", "'keep'", "'cls'", "t3", "'b'"]
    for line, suggestion in zip(lines, suggestions, strict=True):
        assert suggestion in line, line
    assert min(times) < 2.0, times


def test_names_are_checked_without_torch(tmp_path: Path) -> None:
    path = tmp_path / "six.yaml"
    path.write_text(SIX)
    code = (
        "import sys; from pathlib import Path; from avssl.graph.check import check_graph\n"
        f"try: check_graph(Path({str(path)!r}))\n"
        "except Exception as error: print(type(error).__name__, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["ConfigError", "False"], done.stdout + done.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "the file is empty"),
        ("- a\n- b\n", "expected a mapping"),
        ("a: [1, 2\nb: 3\n", "not valid YAML"),
        ("a: !!python/object:os.system {}\n", "is not allowed"),
        ("1: 2\n", "is not a word"),
        ("modules: 3\n", "must be a mapping"),
    ],
)
def test_broken_files_give_a_sentence(text: str, expected: str, tmp_path: Path) -> None:
    assert any(expected in message for message in messages(tmp_path, text))


def test_missing_file_and_directory(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigError, match="cannot read"):
            check_graph(path)


def test_every_graph_is_in_order() -> None:
    """Experiments and the graphs they name are held in order by tests/train/test_experiment.py."""
    configs = ROOT / "configs"
    files = sorted([*configs.glob("graphs/**/*.yaml"), *configs.glob("towers/*.yaml")])
    assert len(files) >= 8
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/graph.py"), "check", *map(str, files)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr


HOSTILE = {
    "alias bomb": (
        "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
        + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)),
        "more than 100000 values",
    ),
    "own alias": ("args: &a {x: *a}\n", "refers to itself"),
    "deep": ("args: " + "[" * 3000 + "]" * 3000, "nested more than"),
    "control bytes": ("args: \x00\x01\n", "not valid YAML"),
    "wrong tag value": ("args: {x: !!int abc, y: !!bool abc}\n", "is not of the type 'int'"),
    "list as key": ("args: {? [1, 2] : 3}\n", "is not a word"),
    "infinite": (
        GOOD.replace("temperature: 0.1", "temperature: .inf"),
        "must be a finite number",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_get_a_sentence_at_once(name: str, tmp_path: Path) -> None:
    text, expected = HOSTILE[name]
    start = time.perf_counter()
    assert any(expected in message for message in messages(tmp_path, text))
    assert time.perf_counter() - start < 5


def test_scalars_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    from avssl.graph.source import Problems, read_yaml

    path = tmp_path / "scalars.yaml"
    path.write_text("a: 1e-3\nb: on\nc: 2024-13-45\nd: 1:30\ne: 010\nf: -12\ng: true\nh: ~\n")
    document = read_yaml(path, Problems())
    assert document is not None
    assert document.data == {
        "a": 0.001,
        "b": "on",
        "c": "2024-13-45",
        "d": "1:30",
        "e": "010",
        "f": -12,
        "g": True,
        "h": None,
    }


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("args", "expected key=value"),
        ("args={1: 2}", "is not a word"),
        ("args=&a {x: *a}", "refers to itself"),
        ("args=!!int abc", "is not of the type"),
        ("args.width.x=1", "is 16, not a mapping"),
    ],
)
def test_overrides_are_checked_alike(assignment: str, expected: str, tmp_path: Path) -> None:
    from avssl.graph.source import Problems, read_yaml

    path = tmp_path / "graph.yaml"
    path.write_text(GOOD)
    problems = Problems()
    document = read_yaml(path, problems)
    assert document is not None and not problems.found
    document.override([assignment], problems)
    (message,) = problems.messages()
    assert message.startswith(f"command line '{assignment}': ") and expected in message


def test_a_part_of_a_name_suggests_the_whole() -> None:
    known = ["units", "video_init", "audio_init", "decoder_width"]
    assert nearest("init", known) == "video_init"
    assert nearest("widht", ["width", "depth"]) == "width"
    assert nearest("frames", known) is None

"""Training that starts from another project's weights: the towers of MAViL from MAE's ViT."""

import shutil
from pathlib import Path

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from transformers import ViTConfig, ViTModel

from avssl.encoders.load import load_encoders
from avssl.errors import ConfigError, UserError
from avssl.graph.graph import Graph
from avssl.train.experiment import References, load_experiment
from avssl.train.run import train
from avssl.weights.foreign import CONFIGS, read_foreign
from avssl.weights.initial import foreign_reference, start
from tests.train import tiny
from tests.weights.plain import (
    build,
    picture_positions,
    random_state,
    randomise,
    save,
)
from tests.weights.shapes import audiomae, mavil

SIZES = {"width": 192, "depth": 2, "heads": 3}
STAGE = {
    **SIZES,
    **{"fusion_depth": 1, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2},
    **{"mel_frames": 64, "mel_bins": 32, "frames": 4, "image": 32},
}


@pytest.fixture(scope="module")
def mae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as MAE's: its fixed positions, three heads of 64."""
    model = randomise(
        VisionTransformer(img_size=32, patch_size=16, embed_dim=192, depth=2, num_heads=3)
    )
    model.pos_embed.data[:, :1] = 0
    model.pos_embed.data[:, 1:] = picture_positions(2, 192)[0]
    return save(tmp_path_factory.mktemp("weights"), {"model": model.state_dict()}, "mae.pth")


def stage1(mae: Path, **args: object) -> Graph:
    references = References({}, Path.cwd())
    path = CONFIGS / "graphs" / "mavil_stage1.yaml"
    return Graph.from_file(path, args={**STAGE, **args}, references=references)


def test_both_towers_of_mavil_start_from_maes_vit(mae: Path) -> None:
    graph = stage1(mae, audio_init=f"{mae}:image", video_init=f"{mae}:image")
    fresh = stage1(mae)
    theirs = torch.load(mae)["model"]
    kernel = theirs["patch_embed.proj.weight"]  # [192, 3, 16, 16]
    audio, video = graph.audio.state_dict(), graph.video.state_dict()
    assert torch.equal(audio["stem.proj.weight"], kernel.sum(1, keepdim=True))
    # a still clip gives what the picture gives
    assert torch.allclose(video["stem.proj.weight"].sum(2), kernel, atol=1e-6)
    for tower in (audio, video):
        assert torch.equal(tower["cls.cls_token"], theirs["cls_token"])
        name = "blocks.1.attn.qkv.weight"
        assert torch.equal(tower[f"encoder.{name}"], theirs[name])
    for name in ("audio", "video"):
        table = f"{name}.positions.table"
        assert torch.equal(graph.state_dict()[table], fresh.state_dict()[table])
    notes = "\n".join(graph.notes)
    assert "audio: stem: kernels summed over 3 channels" in notes
    assert "video: stem: kernels repeated over 2 frames and divided by 2" in notes
    assert "video: norm.norm.weight: left out, for the module has no last norm" in notes
    assert "audio: positions: the module's own fixed ones stay" in notes


def test_the_row_of_the_cls_token_joins_it(mae: Path, tmp_path: Path) -> None:
    state = torch.load(mae)["model"]
    state["pos_embed"][:, 0] = 0.5
    path = save(tmp_path, state)
    audio = stage1(mae, audio_init=f"{path}:image").audio
    assert torch.equal(audio.cls.cls_token, state["cls_token"] + 0.5)


def test_a_still_clip_of_noise_gives_the_same_tokens(mae: Path) -> None:
    """The inflated video tower sees the picture that MAE's ViT sees, at every place and time."""
    picture = torch.randn(2, 3, 32, 32)
    patches = build(read_foreign(mae)).image.stem(picture.unsqueeze(2))  # [2, 4, 192]
    video = stage1(mae, video_init=f"{mae}:image").video
    ours = video.stem(picture.unsqueeze(2).expand(-1, -1, 4, -1, -1))  # [2, 8, 192]
    assert torch.allclose(ours, patches.repeat(1, 2, 1), atol=1e-5)


def test_an_own_tower_takes_everything_as_it_is(tmp_path: Path) -> None:
    state = random_state(mavil(192, 2, 1, 16, 8, 8))
    foreign = read_foreign(save(tmp_path, state), sizes={"mel_bins": 32, "image": 32})
    graph = stage1(tmp_path)
    for name in ("audio", "video", "fusion"):
        found, lines = start(foreign, name, "weights.pth", graph.get_submodule(name))
        assert lines[0].endswith(f"tensors are those of weights.pth:{name} (layout mavil_avsuperb)")
        assert all(torch.equal(found[key], foreign.weights[name][key]) for key in found)


def test_audiomae_starts_a_tower_without_last_norm(tmp_path: Path) -> None:
    state = random_state(audiomae(192, 2, 16, 8))
    foreign = read_foreign(save(tmp_path, state), sizes={"mel_bins": 32})
    found, lines = start(foreign, "audio", "x.pth", stage1(tmp_path).audio)
    assert set(found) == set(stage1(tmp_path).audio.state_dict())
    assert torch.equal(found["stem.proj.weight"], state["patch_embed.proj.weight"])
    assert sum("left out" in line for line in lines) == 2
    # the file's row of the CLS token is not added twice
    assert torch.equal(found["cls.cls_token"], state["cls_token"] + state["pos_embed"][:, :1])


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"depth": 3}, "it lacks encoder.blocks.2."),
        ({"depth": 1}, "encoder.blocks.1."),
        ({"heads": 6}, "has 3 heads, this module 6"),
        ({"audio_patch": 8}, "its stem's kernel is [192, 3, 1, 16, 16], ours [192, 1, 8, 8]"),
        ({"width": 96}, "ours [96, 1, 16, 16]"),
    ],
)
def test_what_no_rule_covers_is_an_error(mae: Path, args: dict[str, int], said: str) -> None:
    with pytest.raises(UserError) as caught:
        stage1(mae, audio_init=f"{mae}:image", **args)
    assert said in str(caught.value)


def write(folder: Path, mae: Path, **changes: str) -> Path:
    """An experiment of one stage that starts from weights beside it, named by a relative path."""
    shutil.copytree(CONFIGS / "towers", folder / "towers")
    shutil.copytree(CONFIGS / "graphs", folder / "graphs")
    (folder / "weights").mkdir()
    shutil.copy(mae, folder / "weights" / "mae.pth")
    args = {**STAGE, "audio_init": "weights/mae.pth:image", "video_init": "weights/mae.pth:image"}
    text = "\n".join(f"  {name}: {value}" for name, value in {**args, **changes}.items())
    path = folder / "start.yaml"
    path.write_text(
        f"name: start\nrun: {folder / 'run'}\nargs:\n{text}\n"
        "data:\n  source: never read\n  batch: 4\n  workers: 0\n  inputs:\n"
        "    audio: {type: fbank, bins: 32, frames: 64}\n"
        "    video: {type: frames, frames: 4, size: 32}\n"
        "probe: {every: 0, pictures: false, final: false}\n"
        "stages:\n  first: {graph: graphs/mavil_stage1.yaml, steps: 2}\n"
    )
    return path


def test_a_run_starts_from_it_and_stands_alone(
    mae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a", mae)
    monkeypatch.setattr("avssl.train.clips.open_clips", tiny.TinyClips)
    train(path, ["train.device=cpu"])
    said = "".join(capsys.readouterr())
    assert "first: video: stem: kernels repeated over 2 frames and divided by 2" in said
    run = (tmp_path / "a" / "run").rename(tmp_path / "moved")
    shutil.rmtree(tmp_path / "a")
    features = load_encoders(run)["audio"].encode({"audio": torch.zeros(2, 1, 64, 32)})
    assert features.shape == (2, 192)


def test_misfits_are_told_before_any_data_is_read(mae: Path, tmp_path: Path) -> None:
    path = write(tmp_path, mae, depth="3", video_init="weights/mea.pth:image")
    with pytest.raises(ConfigError) as caught:
        load_experiment(path)
    assert "'weights/mea.pth' is neither a run folder nor a checkpoint" in str(caught.value)
    for folder in ("towers", "graphs", "weights"):
        shutil.rmtree(tmp_path / folder)
    path = write(tmp_path, mae, depth="3", video_init="/runs/mae")
    with pytest.raises(ConfigError, match=r"'/runs/mae' must be 'stage.module'.* 'run folder:modu"):
        load_experiment(path)
    for folder in ("towers", "graphs", "weights"):
        shutil.rmtree(tmp_path / folder)
    path = write(tmp_path, mae, depth="3", video_init="weights/mae.pth:audio")
    with pytest.raises(ConfigError, match="has no module 'audio'"):
        load_experiment(path)


def test_misfits_of_shape_are_told_at_the_module(mae: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_experiment(write(tmp_path, mae, depth="3"))
    assert len(caught.value.messages) == 2  # one for each tower
    assert "mavil_stage1.yaml" in caught.value.messages[0]
    assert "it lacks encoder.blocks.2." in caught.value.messages[0]


def test_a_frozen_teacher_is_the_foreign_tower(mae: Path) -> None:
    structure = {
        "inputs": {"video": ["B", 3, 1, 32, 32]},
        "modules": {
            "teacher": {"frozen_from": f"{mae}:image"},
            "student": {"type": "linear", "width": 192, "out": 192},
            "nce": {"type": "info_nce", "temperature": 1.0},
        },
        "nodes": {
            "t": {"call": "teacher", "in": {"x": "batch.video"}},
            "s": {"call": "student", "in": {"x": "t.pooled"}},
        },
        "losses": {"match": {"call": "nce", "in": {"a": "s", "b": "t.pooled"}}},
    }
    graph = Graph.from_dict(structure, references=References({}, Path.cwd()))
    clip = torch.randn(2, 3, 1, 32, 32)
    with torch.no_grad():
        theirs: Tensor = build(read_foreign(mae)).image(x=clip)["pooled"]
        assert torch.equal(graph({"video": clip}, ["t.pooled"])["t.pooled"], theirs)
    assert not any(parameter.requires_grad for parameter in graph.teacher.parameters())


def test_a_hugging_face_folder_is_named_by_its_path(tmp_path: Path) -> None:
    config = ViTConfig(
        hidden_size=192,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=768,
        image_size=32,
    )
    model = randomise(ViTModel(config))
    model.save_pretrained(tmp_path / "vit")
    video = stage1(tmp_path, video_init=f"{tmp_path / 'vit'}:image").video
    embeddings = model.embeddings
    token = embeddings.cls_token + embeddings.position_embeddings[:, :1]
    assert torch.equal(video.cls.cls_token, token)


def test_a_reference_gives_the_tensors_of_its_modules(mae: Path) -> None:
    weights = foreign_reference(mae).weights
    assert weights is not None and "image.encoder.blocks.1.norm1.weight" in weights()


def test_weights_of_another_size_are_refused_with_both_shapes() -> None:
    def graph(out: int) -> Graph:
        modules = {"head": {"type": "linear", "width": 4, "out": out}}
        nodes = {"h": {"call": "head", "in": {"x": "batch.x"}}}
        structure = {"inputs": {"x": ["B", 4]}, "modules": modules, "nodes": nodes}
        return Graph.from_dict({**structure, "outputs": {"out": "h"}})

    sentence = r"2 of 2 tensors .* 'head\.proj\.weight' \(\[3, 4\] in the module, \[5, 4\]"
    with pytest.raises(UserError, match=sentence):
        Graph.from_weights(graph(3).spec, graph(5).state_dict())
    with pytest.raises(UserError, match=r"'head\.proj\.bias' \(\[3\] in the module, missing"):
        Graph.from_weights(graph(3).spec, {"head.proj.weight": torch.zeros(3, 4)})

"""What `avssl.load` gives: the towers of the run, layers, pooling, windows."""

import copy
import dataclasses
import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file

import avssl
from avssl.data.config import FramesConfig
from avssl.data.dataset import ClipDataset
from avssl.data.loader import make_eval_loader
from avssl.data.source import open_source
from avssl.encoders.load import Encoders
from avssl.encoders.model import load_graph
from avssl.encoders.windows import starts
from avssl.errors import UserError
from avssl.eval.features import embed
from tests.data.conftest import write_media

RATE = 16000
WINDOW = 0.64  # s, of the run


def noise(seconds: float, seed: int = 0) -> torch.Tensor:
    return torch.randn(round(seconds * RATE), generator=torch.Generator().manual_seed(seed)) * 0.1


def batch(rows: int = 2) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    audio = torch.randn(rows, 1, 64, 32, generator=random)
    return {"audio": audio, "video": torch.randn(rows, 3, 4, 32, 32, generator=random)}


def test_names(av: Encoders) -> None:
    assert av.names == ["audio", "video", "audio_video"]
    assert av.video is av["video"] and av["fusion"].fusion is not None
    assert not av["teacher_audio"].training
    assert not any(module.training for module in av.audio_video.modules())
    with pytest.raises(AttributeError, match="it has audio, video, audio_video"):
        _ = av.text
    with pytest.raises(UserError, match="it has audio, video, audio_video"):
        av["text"]


def test_features_are_those_of_the_graph(av: Encoders, mavil: Path) -> None:
    graph, given = load_graph(mavil), batch()
    with torch.no_grad():
        audio, video = graph.audio(x=given["audio"]), graph.video(x=given["video"])
        fused = graph.fusion(audio=audio["tokens"], video=video["tokens"])
        assert torch.equal(av.audio.encode(given), audio["pooled"])
        assert torch.equal(av.audio.encode(given, pool="none"), audio["tokens"][:, 1:])
        assert torch.equal(av.audio.encode(given, pool="cls"), audio["tokens"][:, 0])
        both = torch.cat([fused[name][:, 1:].mean(1) for name in ("audio", "video")], 1)
        torch.testing.assert_close(av.audio_video.encode(given), both)
        tokens = av.audio_video.encode(given, pool="none")
        torch.testing.assert_close(tokens["video"], fused["video"][:, 1:])


def test_layers(av: Encoders) -> None:
    enc, given = av.video, batch()
    assert (enc.depth, enc.width) == (2, 16)
    with torch.no_grad():
        every = enc.encode(given, layer=[0, 1, 2])
        torch.testing.assert_close(every[2], enc.encode(given))  # no norm behind the last block
        blocks = enc.tower.encoder.blocks
        stem = enc.tower.stem(x=given["video"])
        placed = enc.tower.cls(x=enc.tower.positions(x=stem))
        torch.testing.assert_close(every[0], placed[:, 1:].mean(1))
        torch.testing.assert_close(every[1], blocks[0](placed)[:, 1:].mean(1))
        assert torch.equal(enc.encode(given, layer=-1), every[2])
    assert not any(block._forward_hooks for block in blocks)
    for sentence, kwargs in (
        ("names no layer", {"layer": []}),
        ("batch_size=0 must be", {"batch_size": 0}),
    ):
        with pytest.raises(UserError, match=sentence):
            enc(torch.zeros(2, 48, 64, 3, dtype=torch.uint8), fps=1.0, **kwargs)
    with pytest.raises(UserError, match="has no encoder 'nope'"):
        av.data("x", ["nope"])
    for layer in (3, -4):
        with pytest.raises(UserError, match=r"layers 0 \(embedded patches\) to 2"):
            enc.encode(given, layer=layer)


def test_the_last_layer_of_towers_of_different_depth_is_each_ones_own(mavil: Path) -> None:
    both, given = avssl.load(mavil).audio_video, batch()
    both.fusion = None
    with torch.no_grad():
        deep = both.encode(given, layer=-1, pool="none")["video"]
        both.towers["audio"].encoder.blocks = both.towers["audio"].encoder.blocks[:1]
        assert both.depth == 1
        last = both.encode(given, layer=-1, pool="none")["video"]
        first = both.encode(given, layer=1, pool="none")["video"]
    assert torch.equal(last, deep) and not torch.equal(first, deep)
    with pytest.raises(UserError, match="to 1"):
        both.encode(given, layer=2)


def test_gradients_reach_a_tower(av: Encoders) -> None:
    av.audio.encode(batch()).sum().backward()
    assert all(p.grad is not None for p in av.audio.parameters())
    assert not av.audio(noise(1), sample_rate=RATE).requires_grad
    assert av.audio.train()(noise(1), sample_rate=RATE).requires_grad


def test_equal_to_the_probes_on_files(av: Encoders, mavil: Path, media: Path) -> None:
    """Middle windows through `enc(path)` are the features that probes and loaders compute."""
    data = av.data(str(media), workers=0, batch=3)
    clips = ClipDataset(open_source(data), data, split=None, replace=False)
    towers = {"audio": "audio.pooled", "video": "video.pooled"}
    expected = embed(load_graph(mavil), towers, make_eval_loader(clips, data), device="cpu")
    paths = [media / clip.path for clip in clips.clips]
    assert len(paths) == 6
    found = av.video(paths, span="middle")
    torch.testing.assert_close(found, expected["video"], atol=1e-5, rtol=1e-5)


def test_batches_equal_one_by_one(av: Encoders, media: Path) -> None:
    waves = [noise(s, i) for i, s in enumerate((0.2, 0.64, 1.0, 3.1))]
    together = av.audio(waves, sample_rate=RATE, batch_size=3)
    one_by_one = torch.cat([av.audio(wave, sample_rate=RATE) for wave in waves])
    torch.testing.assert_close(together, one_by_one, atol=1e-5, rtol=1e-5)
    paths = sorted(media.glob("*/[0-9].mp4"))
    together = av.audio_video(paths, layer=[0, 1])
    one_by_one = torch.cat([av.audio_video(path, layer=[0, 1]) for path in paths], 1)
    torch.testing.assert_close(together, one_by_one, atol=1e-5, rtol=1e-5)


def test_a_long_sound_is_the_mean_of_its_windows(av: Encoders) -> None:
    wave = noise(1.5)
    size = round(WINDOW * RATE)
    windows = [wave[:size], wave[size : 2 * size], wave[-size:]]
    expected = av.audio(windows, sample_rate=RATE).mean(0, keepdim=True)
    torch.testing.assert_close(av.audio(wave, sample_rate=RATE), expected)
    (tokens,) = av.audio(wave, sample_rate=RATE, pool="none")
    assert tokens.shape == (3 * 8, 16)  # 64 x 32 in patches of 16
    middle = av.audio(wave, sample_rate=RATE, span="middle")
    begin = round((1.5 - WINDOW) / 2 * RATE)
    torch.testing.assert_close(middle, av.audio(wave[begin : begin + size], sample_rate=RATE))


@pytest.mark.parametrize(
    ("length", "found"),
    [(0.5, [0]), (2, [0]), (4, [0, 2]), (5, [0, 2, 3]), (4.0000001, [0, 2.0000001])],
)
def test_windows_cover_a_clip(length: float, found: list[float]) -> None:
    assert starts(length, 2.0, "all") == pytest.approx(found)


def test_a_file_and_its_samples_agree(av: Encoders, tmp_path: Path) -> None:
    wave = noise(1.9).numpy()
    soundfile.write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
    from_file = av.audio(str(tmp_path / "a.wav"))
    torch.testing.assert_close(from_file, av.audio(wave, sample_rate=RATE), atol=1e-4, rtol=1e-4)
    as_int16 = (wave * 2**15).astype(np.int16)
    torch.testing.assert_close(
        av.audio(torch.from_numpy(as_int16), sample_rate=RATE), from_file, atol=1e-2, rtol=1e-2
    )


def test_another_sample_rate_changes_little(av: Encoders) -> None:
    times = torch.arange(44100) / 44100
    fast = 0.3 * torch.sin(2 * torch.pi * 440 * times)
    slow = 0.3 * torch.sin(2 * torch.pi * 440 * torch.arange(RATE) / RATE)
    a, b = av.audio(fast, sample_rate=44100), av.audio(slow, sample_rate=RATE)
    assert torch.cosine_similarity(a, b).item() > 0.99


def test_pictures_as_arrays_and_stills(av: Encoders, tmp_path: Path) -> None:
    from PIL import Image

    still = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    frames = np.repeat(still[None], 25, 0)
    a = av.video(frames, fps=25.0)
    assert a.shape == (1, 16)
    Image.fromarray(still).save(tmp_path / "still.png")
    torch.testing.assert_close(av.video(tmp_path / "still.png"), a)
    torch.testing.assert_close(av.video(frames[:1], fps=25.0), a)  # one picture is held
    pair = av.audio_video({"audio": noise(1), "video": frames}, sample_rate=RATE, fps=25.0)
    assert pair.shape == (1, 32)
    with pytest.raises(UserError, match=r"still\.png: has no sound"):
        av.audio_video(tmp_path / "still.png")


def test_one_tower_needs_and_holds_nothing_else(
    mavil: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    weights = avssl.load(mavil).model.weights

    def listening(module: str) -> dict[str, torch.Tensor]:
        read.append(module)
        return weights(module)

    av = avssl.load(mavil)
    monkeypatch.setattr(av, "model", dataclasses.replace(av.model, weights=listening))
    assert read == []
    held = av.audio.state_dict()
    assert read == ["audio"]
    assert {key.removeprefix("towers.audio.") for key in held} == set(weights("audio"))
    av.audio(noise(1), sample_rate=RATE)
    assert read == ["audio"]


def test_arrays_of_every_kind(av: Encoders) -> None:
    wave = noise(1).double().numpy()
    expected = av.audio(wave, sample_rate=RATE, layer=1)
    held = np.broadcast_to(wave, (1, len(wave)))
    for given in (wave.astype(">f8"), wave[::-1][::-1], wave.astype(np.longdouble), held):
        for layer in (np.int64(1), torch.tensor(1)):
            found = av.audio(given, sample_rate=np.int32(RATE), layer=layer)  # type: ignore[arg-type]
            assert torch.equal(found, expected)
    layers = av.audio(wave, sample_rate=16000.0, layer=np.array([0, 1]))  # type: ignore[arg-type]
    assert torch.equal(layers[1], expected)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"audio": None}, "reads 'audio': give"),
        ({"audio": torch.zeros(2, 1, 3, 3)}, r"\[B, 1, 64, 32\]; found \[2, 1, 3, 3\]"),
        ({"audio": torch.zeros(0, 1, 64, 32)}, r"found \[0, 1, 64, 32\]"),
        ({"audio": torch.zeros(3, 1, 64, 32)}, "as many windows of each input"),
        ({"audio": torch.zeros(2, 1, 64, 32, dtype=torch.int64)}, "must be floating-point"),
    ],
)
def test_prepared_input_that_does_not_fit(
    av: Encoders, change: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        av.audio_video.encode({**batch(), **change})


def test_a_model_that_diverged(av: Encoders) -> None:
    with torch.no_grad():
        next(av.audio.parameters()).fill_(torch.nan)
    with pytest.raises(UserError, match="the features of audio are not finite"):
        av.audio(noise(1), sample_rate=RATE)


def test_all_encoders_move(av: Encoders) -> None:
    first = av.audio
    assert av.to("cpu") is av and av.audio is first
    assert {av.audio.device.type, av.video.device.type} == {"cpu"}


def test_half_precision(av: Encoders) -> None:
    half = av.audio(noise(1), sample_rate=RATE)
    low = av.audio.to(torch.bfloat16)(noise(1), sample_rate=RATE)
    assert low.dtype == torch.bfloat16
    assert torch.cosine_similarity(half, low.float()).item() > 0.98


def test_fingerprints_tell_models_apart(mavil: Path) -> None:
    last, same = avssl.load(mavil), avssl.load(mavil)
    first = avssl.load(mavil, stage="stage1")
    assert last.audio.fingerprint == same.audio.fingerprint
    prints = {last.audio.fingerprint, last.video.fingerprint, first.audio.fingerprint}
    assert len(prints) == 3
    with torch.no_grad():
        next(same.audio.parameters()).view(-1)[0] += 1e-3
    assert same.audio.fingerprint != last.audio.fingerprint
    for part in ("heads", "window"):
        other = avssl.load(mavil).audio
        if part == "heads":  # no tensor shows it
            module = other.tower.spec.modules["encoder"]
            module.arguments["heads"] = 4
        else:
            other.data = dataclasses.replace(other.data, window=1.0)
        assert other.fingerprint != last.audio.fingerprint


def test_threads_do_not_meet(av: Encoders) -> None:
    """Layers of one thread hold nothing of another thread's calls."""
    given, other = batch(), batch(3)
    with torch.no_grad():
        expected = av.audio.encode(given, layer=[0, 1, 2])
        plain = av.audio.encode(other)

    def ask(number: int) -> bool:
        with torch.no_grad():
            if number % 2:
                return torch.equal(av.audio.encode(given, layer=[0, 1, 2]), expected)
            return torch.equal(av.audio.encode(other), plain)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(200)))


def test_encoders_can_be_copied(av: Encoders) -> None:
    other = pickle.loads(pickle.dumps(copy.deepcopy(av.audio_video)))
    assert torch.equal(other.encode(batch()), av.audio_video.encode(batch()))


def test_short_sound_may_be_padded(av: Encoders) -> None:
    """Zeros behind the filterbank of what there is, not the filterbank of silence."""
    encoder = av.audio
    recipe = dataclasses.replace(encoder.inputs["audio"], short="pad")
    encoder.data = dataclasses.replace(encoder.data, inputs={"audio": recipe})
    caught = {}

    def encode(batch: dict[str, torch.Tensor], **_: Any) -> torch.Tensor:
        caught.update(batch)
        return torch.zeros(len(batch["audio"]), 16)

    encoder.encode = encode  # type: ignore[method-assign]
    encoder([noise(0.2), noise(2.0)], sample_rate=RATE)
    x = caught["audio"]  # 0.2 s are 18 frames of 25 ms, 10 ms apart
    empty = -recipe.mean / (2 * recipe.std)
    assert (x[0, 0, 18:] == torch.tensor(empty)).all() and (x[0, 0, :18] != empty).all()
    assert (x[1, 0, 62:] == torch.tensor(empty)).all() and (x[1, 0, :62] != empty).all()


@pytest.mark.parametrize(
    ("length", "times"),
    [(10, [3, 4, 5, 6]), (5, [0.5, 1.5, 2.5, 3.5]), (4, [0, 1, 2, 3]), (2, [0, 1, 0, 1])],
)
def test_pictures_of_a_part_of_the_window(length: float, times: list[float]) -> None:
    recipe = FramesConfig(frames=4, seconds=4.0)
    assert recipe.times(10.0, length, fps=25.0).tolist() == pytest.approx(times)


@pytest.mark.parametrize(
    ("given", "kwargs", "sentence"),
    [
        (torch.zeros(0), {"sample_rate": RATE}, "an input is empty"),
        (torch.zeros(100), {"sample_rate": RATE}, r"100 samples long, 6\.2 ms: at least 25 ms"),
        (torch.full((RATE,), torch.nan), {"sample_rate": RATE}, "not finite"),
        (torch.zeros(RATE), {}, "give sample_rate="),
        (torch.zeros(RATE), {"sample_rate": True}, "sample_rate=True is not a whole number of Hz"),
        (torch.zeros(RATE), {"sample_rate": 1}, "from 1000 to 1000000"),
        (torch.zeros(RATE), {"sample_rate": 16000.5}, "sample_rate=16000.5 is not a whole"),
        (torch.zeros(RATE), {"sample_rate": "16k"}, "sample_rate='16k' is not a whole"),
        (torch.full((RATE,), 1e4), {"sample_rate": RATE}, "peaks at 10000, far outside"),
        (torch.zeros(RATE).to_sparse(), {"sample_rate": RATE}, "found sparse_coo float32"),
        (torch.zeros(RATE, device="meta"), {"sample_rate": RATE}, "on meta"),
        (torch.zeros(RATE, dtype=torch.cfloat), {"sample_rate": RATE}, "complex64"),
        (["a.wav", torch.zeros(RATE)], {"sample_rate": RATE}, "mixed in one list"),
        (torch.zeros(RATE), {"sample_rate": RATE, "batch_size": "1"}, "batch_size='1' must be"),
        (torch.zeros(RATE), {"sample_rate": RATE, "layer": "1"}, "layer='1' is not a whole"),
        (torch.zeros(RATE), {"sample_rate": RATE, "layer": 1.5}, "layer=1.5 is not a whole"),
        (torch.zeros(RATE), {"sample_rate": RATE, "layer": [None]}, "is not a whole number"),
        (torch.zeros(RATE, dtype=torch.int64), {"sample_rate": RATE}, "found int64"),
        (torch.zeros(2, 2, RATE), {"sample_rate": RATE}, r"found the shape \[2, 2, 16000\]"),
        (object(), {"sample_rate": RATE}, "give a path, or waveforms"),
        ([], {"sample_rate": RATE}, "the list is empty|is empty"),
        ("missing.wav", {}, r"missing\.wav is not there"),
        ("missing.wav", {"sample_rate": RATE}, "a file tells its own rate"),
        (".", {}, "is a folder: give a file"),
        (torch.zeros(RATE), {"sample_rate": RATE, "pool": "max"}, "none of mean, cls, none"),
        (torch.zeros(RATE), {"sample_rate": RATE, "span": "end"}, "none of all, middle"),
    ],
)
def test_bad_sound_is_a_sentence(
    av: Encoders, given: Any, kwargs: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        av.audio(given, **kwargs)


def test_bad_files_are_sentences(av: Encoders, media: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.float32), RATE)
    write_media(tmp_path / "one.mp4", count=1)
    with pytest.raises(UserError, match=r"empty\.wav: sound: the wav holds no sample"):
        av.audio(tmp_path / "empty.wav")
    with pytest.raises(UserError, match=r"text\.mp4: damaged or not a media file"):
        av.video(media / "even" / "text.mp4")
    with pytest.raises(UserError, match=r"silent\.mp4: has no sound"):
        av.audio_video(media / "odd" / "silent.mp4")
    assert av.video(tmp_path / "one.mp4").isfinite().all()  # one picture is held
    with pytest.raises(UserError, match="uint8 RGB"):
        av.video(torch.zeros(3, 4, 4, 3))
    with pytest.raises(UserError, match="pictures per second"):
        av.video(torch.zeros(3, 4, 4, 3, dtype=torch.uint8))
    frames = torch.zeros(3, 4, 4, 3, dtype=torch.uint8)
    for fps in (1e-9, float("inf"), float("nan"), "25", -1):
        with pytest.raises(UserError, match="is not a number of pictures per second"):
            av.video(frames, fps=fps)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="too narrow"):
        av.video(torch.zeros(2, 1, 10000, 3, dtype=torch.uint8), fps=8.0)
    with pytest.raises(UserError, match="'sound' is unknown"):
        av.audio_video({"audio": noise(1), "video": 0, "sound": 0})


def test_bad_models_are_sentences(mavil: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"its stages are stage1, stage2$"):
        avssl.load(mavil, stage="stage3")
    with pytest.raises(UserError, match="does not exist"):
        avssl.load(tmp_path / "nothing")
    with pytest.raises(UserError, match="layout, allow and sizes belong to checkpoints of other"):
        avssl.load(mavil, layout="mae")
    for device in ("nowhere", "meta", None):
        with pytest.raises(UserError, match="cannot be used"):
            avssl.load(mavil, device=device)  # type: ignore[arg-type]
    for path in (None, 5, "x" * 5000):
        with pytest.raises(UserError, match="is no path of a model"):
            avssl.load(path)  # type: ignore[call-overload]
    with pytest.raises(UserError, match="has no stage ''"):
        avssl.load(mavil, stage="")
    stage = mavil / "checkpoints" / "stage1"
    asked = rf'give {mavil} --stage stage1, in Python avssl\.load\("{mavil}", stage="stage1"\)'
    for path in (stage, next(stage.iterdir())):
        with pytest.raises(UserError, match=asked):
            avssl.load(path)
    save_file({"a": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError):
        avssl.load(tmp_path / "x.safetensors")


def test_importing_avssl_is_quick_and_light() -> None:
    script = (
        "import sys, time; begin = time.perf_counter(); import avssl; "
        "seconds = time.perf_counter() - begin; light = 'torch' not in sys.modules; "
        "import torch; begin = time.perf_counter(); import avssl.encoders.load; "
        "more = time.perf_counter() - begin; import json; "
        "heavy = [n for n in ('faiss', 'gradio', 'timm', 'transformers', 'onnx', 'sklearn', "
        "'matplotlib', 'decord', 'tensorboard', 'pandas', 'pyarrow', 'umap') if n in sys.modules]; "
        "print(json.dumps([seconds, light, more, heavy]))"
    )
    runs = [
        json.loads(subprocess.run([sys.executable, "-c", script], capture_output=True).stdout)
        for _ in range(2)
    ]
    seconds, light, _, heavy = runs[0]
    assert seconds < 1 and light and heavy == []
    assert min(more for _, _, more, _ in runs) < 3  # a second on a quiet machine

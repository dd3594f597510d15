"""Search among pictures and members of tar shards: by models of pictures, of both, and on the page.

Letters: H W height and width.
"""

import dataclasses
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from avssl.data.container import MediaError
from avssl.data.shards import open_media
from avssl.page.refusal import Refusal
from avssl.page.server import PageServer
from avssl.retrieval.build import index_clips
from avssl.retrieval.page.answers import Page
from avssl.retrieval.page.start import run_index
from avssl.retrieval.search import Search
from avssl.train.run import train
from tests.browser import NEEDS_BROWSER, open_browser, visitors
from tests.data.conftest import write_media
from tests.retrieval.test_page_server import get
from tests.retrieval.test_tool import call
from tests.train import tiny

SMALL = (
    "args.width=24 args.depth=2 args.heads=2 args.image=32 args.decoder_width=16 "
    "args.decoder_heads=2 data.inputs.image.size=32 data.batch=2 data.workers=0 train.device=cpu "
    "train.warmup=0 probe.every=0 probe.final=false stages.mae.epochs=null stages.mae.steps=1"
).split()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures, dark and bright."""
    folder, random = tmp_path_factory.mktemp("stills") / "pictures", np.random.default_rng(0)
    for number in range(6):
        path = folder / "train" / ("dark", "bright")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        low = 150 * (number % 2)
        Image.fromarray(random.integers(low, low + 100, (40, 60, 3), np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def mae(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a model whose only encoder is called image."""
    base = tmp_path_factory.mktemp("mae")
    changes = [f"data.source={pictures}", f"data.cache={base / 'cache'}", f"run={base / 'run'}"]
    train(tiny.CONFIGS / "mae.yaml", [*SMALL, *changes])
    return base / "run"


@pytest.fixture(scope="module")
def shards(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`films.tar` with an .mp4, one that browsers do not play, and `stills.tar`."""
    folder = tmp_path_factory.mktemp("shards")
    write_media(folder / "a.mp4", audio="aac", count=50)
    write_media(folder / "b.avi", video="mpeg4", audio="pcm_s16le", count=25)
    stills = {f"{path.stem}.png": path for path in sorted(pictures.rglob("*.png"))}
    films = {name: folder / name for name in ("a.mp4", "b.avi")}
    (folder / "tars").mkdir()
    for name, members in (("films", films), ("stills", stills)):
        with tarfile.open(folder / "tars" / f"{name}.tar", "w") as tar:
            for member, path in members.items():
                tar.add(path, member)
                info = tarfile.TarInfo(f"{Path(member).stem}.cls")
                info.size = 1
                tar.addfile(info, io.BytesIO(b"7"))
    return folder / "tars"


@pytest.fixture(scope="module")
def still_page(mae: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """Of pictures, by the model of pictures."""
    return Page(indexed(mae, pictures, tmp_path_factory.mktemp("index") / "stills"))


@pytest.fixture(scope="module")
def film_page(model: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """Of the films in a tar, by the model of sound and picture."""
    return Page(indexed(model, shards / "films.tar", tmp_path_factory.mktemp("index") / "films"))


@pytest.fixture(scope="module")
def addresses(still_page: Page, film_page: Page) -> Iterator[dict[str, str]]:
    servers = {name: PageServer(host="127.0.0.1", port=0) for name in ("stills", "films")}
    threads = []
    for name, page in (("stills", still_page), ("films", film_page)):
        page.warm_up()
        threads.append(threading.Thread(target=servers[name].serve, args=(page,)))
        threads[-1].start()
    yield {name: urlsplit(server.url).netloc for name, server in servers.items()}
    for server, thread in zip(servers.values(), threads, strict=True):
        server.shutdown()
        thread.join()


def indexed(run: Path, source: Path, folder: Path, **wanted: Any) -> Search:
    index_clips(str(source), run=run, folder=folder, memory=10**9, workers=0, **wanted)
    return Search.open(folder)


def test_a_model_of_pictures_finds_pictures(
    mae: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "index", pictures, "--run", mae) == 0
    still = pictures / "train/bright/3.png"
    capsys.readouterr()
    assert call(monkeypatch, "query", still, "--top", "2", "--picture", "found.png") == 0
    first = capsys.readouterr().out.splitlines()[1].split()
    assert first[1] == "1.0000" and first[3:] == ["train/bright/3.png", "all", "bright"]
    with Image.open("found.png") as sheet:
        assert len(sheet.convert("RGB").getcolors(1 << 20) or []) > 100
    for extra, sentence in (
        (["index", pictures, "--run", mae, "--modality", "audio", "--out", "b"],
         "has no encoder of sound to search by: it has image"),
        (["query", still, "--by", "audio"], "has no encoder of sound to search by"),
        (["query", still, "--to", "audio"], "has no vectors of 'audio': it has video"),
    ):  # fmt: skip
        assert call(monkeypatch, *extra) == 2
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_an_index_is_of_what_the_clips_have(
    model: Path, pictures: Path, shards: Path, clips: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    search = indexed(model, pictures, tmp_path / "a")
    assert search.modalities == ["video"] and len(search) == 6
    assert "audio is left out: no clip has a sound" in capsys.readouterr().err
    assert len(indexed(model, shards / "films.tar", tmp_path / "a")) == 8  # it stays of pictures
    both = indexed(model, shards, tmp_path / "b")
    assert both.modalities == ["audio", "video"] and len(both) == 2
    # a picture asks for pictures, what has sound for what fits that, if the model has it
    assert search.way(pictures / "train/bright/3.png", "video") == "video"
    assert search.way(clips / "00001.mp4", "video") == "audio"
    assert both.way(clips / "00001.wav", "audio") == "audio"


def test_members_of_shards_are_found_and_named(model: Path, shards: Path, tmp_path: Path) -> None:
    from avssl.retrieval.show import as_json, middle_picture

    search = indexed(model, shards / "stills.tar", tmp_path / "index", modalities=["video"])
    found = as_json(search, search.query(search.vector(2, "video"), to="video", top=1))[0]
    assert found["path"] == "stills.tar/5.png" and found["label"] == "7"
    assert found["file"] == str(shards / "stills.tar")
    with open(found["file"], "rb") as tar:
        tar.seek(found["tar_offset"])
        with Image.open(io.BytesIO(tar.read(found["tar_bytes"]))) as image:
            assert image.size == (60, 40)
    assert middle_picture(search, 2, size=32).size == (32, 32)


def test_only_a_members_own_bytes_are_served(addresses: dict[str, str], shards: Path) -> None:
    whole = (shards.parent / "a.mp4").read_bytes()
    status, body, headers = get(addresses["films"], "/api/media/0")
    assert (status, body, headers["Content-Type"]) == (200, whole, "video/mp4")
    for asked, part in (
        ("10-99", whole[10:100]),
        (f"500-{10**9}", whole[500:]),
        (f"-{10**9}", whole),
    ):
        status, body, headers = get(addresses["films"], "/api/media/0", Range=f"bytes={asked}")
        assert status == 206 and body == part
        assert headers["Content-Range"].endswith(f"/{len(whole)}")
    assert get(addresses["films"], "/api/media/0", Range=f"bytes={len(whole)}-")[0] == 416
    copy = get(addresses["films"], "/api/media/1")  # of what browsers do not play
    assert copy[0] == 200 and copy[1][4:8] == b"ftyp"
    for kind in ("poster", "spectrogram"):
        assert get(addresses["films"], f"/api/{kind}/1")[0] == 200


def test_another_place_in_a_shard_is_refused(film_page: Page) -> None:
    clip, path = film_page.search.clip(0), film_page.search.file(0)
    other = film_page.search.clip(1)
    assert clip.tar_offset is not None and clip.tar_bytes is not None
    for offset, size in (
        (clip.tar_offset, clip.tar_bytes + 512), (clip.tar_offset, -1),
        (clip.tar_offset + 512, clip.tar_bytes), (other.tar_offset, other.tar_bytes),
    ):  # fmt: skip
        with pytest.raises(MediaError, match="its shard has changed"):
            open_media(path, dataclasses.replace(clip, tar_offset=offset, tar_bytes=size))
    with open_media(path, clip) as file:
        assert file.seek(0, 2) == clip.tar_bytes and file.read() == b""
        assert file.seek(-3, 2) == clip.tar_bytes - 3 and len(file.read(10)) == 3


def test_a_shard_that_changes_or_goes_is_told(model: Path, shards: Path, tmp_path: Path) -> None:
    tar = tmp_path / "tars" / "films.tar"
    tar.parent.mkdir()
    tar.write_bytes((shards / "films.tar").read_bytes())
    search = indexed(model, tar, tmp_path / "index")
    with tarfile.open(tar, "w") as changed:
        changed.add(shards.parent / "b.avi", "a.mp4")
    page = Page(search)
    for ask in (page.clips.media, lambda number: page.clips.pictures("poster", number)):
        with pytest.raises(Refusal, match=r"^films\.tar/a\.mp4 cannot be .*its shard has changed"):
            ask(0)
    tar.unlink()
    with pytest.raises(Refusal, match=r"^a\.mp4 is not there any more\.$"):
        Page(search).clips.media(0)
    match = Page(search).search_clip(0, by="audio")["matches"][0]
    assert not match["url"] and not match["poster"]


def test_the_page_of_pictures_asks_for_pictures(
    addresses: dict[str, str], still_page: Page, pictures: Path
) -> None:
    address = addresses["stills"]
    about = json.loads(get(address, "/api/about")[1])
    assert about["directions"] == {"video": "video"} and len(about["examples"]) == 6
    found = json.loads(get(address, "/api/search?clip=2&by=video")[1])
    assert len(found["query"]["strip"]) == 1 and not found["query"]["seconds"]
    first = found["matches"][0]
    assert first["self"] and first["poster"] and not first["url"] and not first["spectrogram"]
    assert get(address, f"/{first['poster']}")[0] == 200
    status, body, _ = get(address, "/api/media/2")
    assert status == 404 and "is a picture: there is nothing to play" in json.loads(body)["error"]
    still = pictures / "train/bright/3.png"
    shown = still_page.search_upload(still, name="3.png", by="video")["matches"]
    assert shown[0]["name"] == "train/bright/3.png" and shown[0]["score"] > 0.999
    with pytest.raises(Refusal, match="This index is not searched by sound"):
        still_page.search_upload(still, name="3.png", by="audio")


def test_pictures_are_also_searched_by_sound_where_the_model_hears(
    model: Path, pictures: Path, clips: Path, tmp_path: Path
) -> None:
    page = Page(indexed(model, pictures, tmp_path / "index"))
    page.warm_up()
    assert page.directions == {"video": "video", "audio": "video"}
    assert page.search_upload(clips / "00001.wav", name="a.wav", by="audio")["to"] == "video"
    still = pictures / "train/bright/3.png"
    with pytest.raises(Refusal, match="switch the direction to picture → picture"):
        page.search_upload(still, name="3.png", by="audio")
    with pytest.raises(Refusal, match=r"^'a\.wav' has no picture .* direction to sound → picture"):
        page.search_upload(clips / "00001.wav", name="a.wav", by="video")


def test_a_run_on_pictures_is_served_by_its_name(mae: Path, pictures: Path) -> None:
    folder = run_index(mae, str(pictures), None, memory=10**9)
    assert Search.open(folder).modalities == ["video"] and folder.is_relative_to(mae)


@NEEDS_BROWSER
def test_pictures_and_members_in_a_browser(addresses: dict[str, str], pictures: Path) -> None:
    loaded = "[...document.images].every(image => !image.src || image.naturalWidth)"
    with open_browser() as browser:
        url = f"http://{addresses['stills']}/"
        with visitors(browser, url, ready="#examples button") as visit:
            page = visit()
            assert page.is_hidden("input[value=audio]") and page.is_hidden("#record")
            assert "Picture → picture" in page.inner_text("fieldset.direction")
            page.set_input_files("#file", pictures / "train/bright/3.png")
            page.wait_for_selector("#matches li")
            assert page.inner_text("#title") == "Pictures like this picture"
            page.wait_for_function(loaded)
            page.wait_for_load_state("networkidle")
            assert page.locator("#matches li").count() == 6
            assert page.locator(".failure:visible, .hear:visible").count() == 0
            assert page.locator("#query-strip img").count() == 1 and page.is_hidden("#query-media")
            posters = "[...document.querySelectorAll('#matches video')].map(v => v.poster)"
            assert all(f"{url}api/poster/" in poster for poster in page.evaluate(posters))
        url = f"http://{addresses['films']}/"
        with visitors(browser, url, ready="#examples button") as visit:
            page = visit()
            page.click("#examples button")
            page.wait_for_selector("#matches li")
            for item in page.locator("#matches li").all():
                item.locator(".stage").click()
                page.wait_for_function(
                    "video => video.currentTime > 0.2 && !video.error",
                    arg=item.locator("video").element_handle(),
                )

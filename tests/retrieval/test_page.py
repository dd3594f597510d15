"""The search page in a real browser: what a visitor sees, and what no visitor can do.

Needs Chromium, which plays the clips' H.264: found in PATH, or named by AVSSL_CHROMIUM.
"""

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
import soundfile

from avssl.page.server import PageServer
from avssl.retrieval.build import index_clips
from avssl.retrieval.page.answers import Page
from avssl.retrieval.search import Search
from tests.browser import NEEDS_BROWSER, open_browser, visitors
from tests.data.conftest import write_media
from tests.retrieval.conftest import CORPUS

pytestmark = NEEDS_BROWSER
STRETCHES = {"part.mp4": 1.0, "begin.mp4": 0.0}  # s at which their second begins


@pytest.fixture(scope="module")
def index(model: Path, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test split, and clips in formats that browsers do not play, one a stretch of its file."""
    base = tmp_path_factory.mktemp("page")
    (base / "odd").mkdir()
    write_media(base / "odd" / "old.avi", video="mpeg4", audio="pcm_s16le")
    write_media(base / "odd" / "older.mpg", video="mpeg1video", audio="mp2")
    write_media(base / "odd" / "part.mp4", audio="aac")
    write_media(base / "odd" / "begin.mp4", audio="aac")
    rows = "path,start,end\nold.avi,1,3\nolder.mpg,,\npart.mp4,1,2\nbegin.mp4,0,1\n"
    (base / "odd" / "manifest.csv").write_text(rows)
    for source, split in ((f"corpus:{CORPUS}", "test"), (str(base / "odd"), None)):
        index_clips(source, run=model, folder=base / "index", split=split, memory=10**9, workers=0)
    return base / "index"


@pytest.fixture(scope="module")
def search(index: Path) -> Search:
    return Search.open(index)


@pytest.fixture(scope="module")
def url(search: Search) -> Iterator[str]:
    server = PageServer(host="127.0.0.1", port=0)
    thread = threading.Thread(target=server.serve, args=(Page(search),))
    thread.start()
    yield server.url
    server.shutdown()
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as running:
        yield running


@pytest.fixture
def visit(browser: Any, url: str) -> Iterator[Any]:
    """`visit()` opens the page as a visitor of its own; all requests must stay on the server."""
    with visitors(browser, url, ready="#examples button") as visit:
        yield visit


def upload(page: Any, path: Path) -> None:
    page.evaluate("document.getElementById('matches').replaceChildren()")
    page.set_input_files("#file", path)


def found(page: Any) -> list[int]:
    """Ids of the matches shown, once they are there."""
    page.wait_for_selector("#matches li")
    return [int(item.get_attribute("data-clip")) for item in page.query_selector_all("#matches li")]


def expected(search: Search, path: Path, by: str) -> list[int]:
    to = {"audio": "video", "video": "audio"}[by]
    return [match.id for match in search.query(search.embed(path, by), to=to, top=12)]


def problem(page: Any) -> str:
    page.wait_for_selector("#problem:not([hidden])")
    return str(page.inner_text("#problem"))


def test_upload_is_searched_with_both_ways(visit: Any, search: Search, clips: Path) -> None:
    page, clip = visit(), clips / "00003.mp4"
    upload(page, clip)
    assert found(page) == expected(search, clip, "audio")
    assert "Pictures" in page.inner_text("#title") and page.is_visible("#query-spectrogram")
    assert page.locator("#query-strip img").count() == 6
    scores = [float(text) for text in page.locator("#matches .score").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    page.evaluate("document.getElementById('matches').replaceChildren()")
    page.check("input[value=video]", force=True)
    assert found(page) == expected(search, clip, "video")
    assert "Sounds" in page.inner_text("#title")
    sound = clips / "00003.wav"
    page.check("input[value=audio]", force=True)
    upload(page, sound)
    assert found(page) == expected(search, sound, "audio")
    assert page.is_hidden("#query-strip") and page.is_visible("#query-spectrogram")


def test_matches_and_examples_play(visit: Any, search: Search) -> None:
    page = visit()
    page.click("#examples button")
    ids = found(page)
    assert len(ids) == len(search) and page.locator(".self:visible").count() == 1
    page.wait_for_function("[...document.images].every(image => !image.src || image.naturalWidth)")
    ids = [id for id in ids if search.file(id).name not in STRETCHES]
    seconds = {".mp4": 3.0, ".avi": 2.0, ".mpg": 4.0}
    for row in {search.file(id).suffix: row for row, id in enumerate(ids)}.values():
        item = page.locator(f"#matches li[data-clip='{ids[row]}']")
        item.locator(".stage").click()
        page.wait_for_function(
            "video => video.currentTime > 0.3 && !video.muted && !video.paused && !video.error",
            arg=item.locator("video").element_handle(),
        )
        length = item.locator("video").evaluate("video => video.duration")
        assert length == pytest.approx(seconds[search.file(ids[row]).suffix], abs=0.1)
        assert "heard" in (item.get_attribute("class") or "")
    assert page.locator("#matches li.heard").count() == 1


def test_only_the_stretch_in_the_index_plays(visit: Any, search: Search) -> None:
    page = visit()
    page.click("#examples button")
    found(page)
    for name, start in STRETCHES.items():
        clip = next(id for id in range(len(search)) if search.file(id).name == name)
        item = page.locator(f"#matches li[data-clip='{clip}']")
        item.locator(".stage").click()
        times = []
        for _ in range(12):
            page.wait_for_timeout(250)
            times.append(item.locator("video").evaluate("video => video.currentTime"))
        assert all(start - 0.1 < time < start + 1.4 for time in times[4:]), times
        assert any(later < time for time, later in itertools.pairwise(times))  # again


def test_a_still_is_searched_with(visit: Any, search: Search, clips: Path, tmp_path: Path) -> None:
    page, still = visit(), tmp_path / "still.jpg"
    with av.open(str(clips / "00005.mp4")) as film:
        next(film.decode(video=0)).to_image().save(still)
    upload(page, still)
    assert "'still.jpg' has no sound to search with: switch the direction" in problem(page)
    page.check("input[value=video]", force=True)
    assert found(page) == expected(search, still, "video") and page.is_hidden("#problem")
    assert page.is_hidden("#query-media") and page.is_hidden("#query-silent")
    assert page.locator("#query-strip img").count() == 1


def test_a_recording_is_searched_with(visit: Any) -> None:
    page = visit()
    page.click("#record")
    page.wait_for_selector("#record.on")
    page.wait_for_timeout(1200)
    page.click("#record")
    assert found(page)
    assert page.inner_text("#query-name").startswith("recording")
    assert page.is_visible("#query-spectrogram")


def test_what_cannot_be_used_gets_a_sentence(
    visit: Any, search: Search, clips: Path, tmp_path: Path
) -> None:
    page = visit()
    text, empty, mute, huge = (tmp_path / n for n in ("a.txt", "b.wav", "c.mp4", "d.mp4"))
    text.write_text("#EXTM3U\nfile:/etc/passwd\n")
    soundfile.write(empty, [], 16000)
    write_media(mute)
    with open(huge, "wb") as file:
        file.truncate(200_000_000)
    for path, sentence in (
        (text, "'a.txt' cannot be used: it is no video or sound file"),
        (empty, "'b.wav' cannot be used: the wav holds no sample"),
        (mute, "'c.mp4' has no sound to search with: switch the direction"),
        (huge, "'d.mp4' has 200 MB; this page takes files up to 50 MB"),
    ):
        upload(page, path)
        page.wait_for_function(
            "name => document.getElementById('problem').textContent.includes(name)", arg=path.name
        )
        assert sentence in problem(page)
        assert page.locator("#matches li").count() == 0
    refused = page.evaluate(  # a sender that does not look at the limit
        """async () => {
          const body = new Blob([new Uint8Array(60e6)]);
          const reply = await fetch("api/search?by=audio&name=e.wav", { method: "POST", body });
          return [reply.status, (await reply.json()).error];
        }"""
    )
    assert refused == [413, "'e.wav' has 60.0 MB; this page takes files up to 50 MB."]
    upload(page, mute)
    page.check("input[value=video]", force=True)
    assert found(page) == expected(search, mute, "video") and page.is_hidden("#problem")


def test_two_users_get_their_own_results(visit: Any, search: Search, clips: Path) -> None:
    first, second = visit(), visit()
    second.check("input[value=video]", force=True)
    for one, other in (("00000.mp4", "00001.mp4"), ("00006.mp4", "00004.mp4")):
        for page, name in ((first, one), (second, other)):
            upload(page, clips / name)  # both are under way before either is waited for
        for page, name, by in ((first, one, "audio"), (second, other, "video")):
            assert found(page) == expected(search, clips / name, by)
            assert page.inner_text("#query-name") == name

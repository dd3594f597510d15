"""The lip-reading page in a real browser, and what its server refuses."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import pytest

from avssl.errors import UserError
from avssl.page.server import PageServer
from avssl.speech.page import answers
from avssl.speech.page.answers import Limits, LipPage
from avssl.speech.page.upload import read_here
from avssl.speech.reader import Reader
from avssl.speech.readers import Readers
from tests.browser import NEEDS_BROWSER, open_browser, visitors
from tests.speech.rigged import Rigged, write_talk
from tests.speech.test_transcribe import SOUND, TEXT, lipread


@contextmanager
def serving() -> Iterator[str]:
    """The address of a server whose model reads both."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reader, "load", lambda folder: Rigged(Path(folder).name))
        page = LipPage(Readers([Path("both")]), limits=Limits(upload=2_000_000, seconds=5.0))
    server = PageServer(host="127.0.0.1", port=0)
    thread = threading.Thread(target=server.serve, args=(page,))
    thread.start()
    yield server.url
    server.shutdown()
    thread.join()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Uploads are read in the server's own process: starting another takes seconds."""
    with pytest.MonkeyPatch.context() as patch, serving() as url:
        patch.setattr(
            answers, "read_talk", lambda path, data, longest: read_here(path, data, longest)
        )
        yield url


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("talk") / "talk.mp4"
    write_talk(path, TEXT, SOUND)
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as running:
        yield running


@pytest.fixture
def visit(browser: Any, url: str) -> Iterator[Any]:
    with visitors(browser, url, ready="body[data-ready]") as visit:
        yield visit


def said(page: Any, text: str) -> list[str]:
    """Words shown, once they are `text`."""
    page.wait_for_function(
        "text => document.getElementById('text').textContent.trim() === text", arg=text
    )
    assert page.is_hidden("#problem")
    return [item.inner_text() for item in page.query_selector_all("#words button")]


def problem(page: Any, sentence: str) -> None:
    page.wait_for_function(
        "text => document.getElementById('problem').textContent.includes(text)", arg=sentence
    )
    assert page.is_visible("#problem") and page.is_hidden("#result")


@NEEDS_BROWSER
def test_words_stand_where_they_are_said(visit: Any, talk: Path) -> None:
    page = visit()
    page.set_input_files("#file", talk)
    assert said(page, TEXT) == TEXT.split()
    page.locator("#words button").nth(1).click()
    page.wait_for_function(
        "() => document.querySelectorAll('.said').length === 2"
    )  # in both places
    assert page.inner_text("#text .said") == TEXT.split()[1]
    assert page.evaluate("media.currentTime") == pytest.approx(22 / 25, abs=0.1)
    grey = "[...crop.getContext('2d').getImageData(48, 48, 1, 1).data][0]"
    # in one go, for the clip itself moves on meanwhile; at 2.5 frames b is said, unit 2, then a
    assert page.evaluate(f"(at(2.5 / 25), {grey})") == pytest.approx(24 * 3, abs=6)
    assert page.evaluate(f"(at(7.5 / 25), {grey})") == pytest.approx(24 * 2, abs=6)
    assert page.evaluate("media.videoWidth") == 96 and "confidence" in page.inner_text("#told")


@NEEDS_BROWSER
def test_switching_reads_the_same_clip_again(visit: Any, talk: Path) -> None:
    page = visit()
    page.set_input_files("#file", talk)
    said(page, TEXT)
    page.check("input[value=audio]", force=True)
    assert said(page, SOUND) == SOUND.split()
    assert page.is_hidden("#mouth") and page.is_visible("#spectrogram")
    page.check("input[value=both]", force=True)
    said(page, TEXT)
    assert page.is_visible("#mouth")


@NEEDS_BROWSER
def test_what_cannot_be_read_gets_a_sentence(visit: Any, tmp_path: Path, talk: Path) -> None:
    page = visit()
    text, huge, mute = (tmp_path / name for name in ("a.txt", "huge.mp4", "mute.mp4"))
    text.write_text("#EXTM3U\nfile:/etc/passwd\n")
    write_talk(mute, TEXT)
    with open(huge, "wb") as file:
        file.truncate(50_000_000)
    for path, sentence in (
        (text, "'a.txt' cannot be read: it is no video or sound file"),
        (huge, "'huge.mp4' has 50 MB; this page takes files up to 2 MB"),
    ):
        page.set_input_files("#file", path)
        problem(page, sentence)
    page.set_input_files("#file", mute)
    said(page, TEXT)
    page.check("input[value=audio]", force=True)
    problem(page, "'mute.mp4' has no sound: only its lips can be read.")
    page.check("input[value=video]", force=True)
    said(page, TEXT)


@NEEDS_BROWSER
def test_a_clip_that_browsers_do_not_play_is_shown(visit: Any, talk: Path, tmp_path: Path) -> None:
    page = visit()
    page.set_input_files("#file", repacked(talk, tmp_path / "talk.avi"))
    said(page, TEXT)
    page.wait_for_function("() => media.videoWidth === 96")
    assert page.is_hidden("#silent") and page.inner_text("#told").startswith("talk.avi")


@NEEDS_BROWSER
def test_the_camera_is_recorded(visit: Any) -> None:
    page = visit()
    page.check("input[value=audio]", force=True)  # the browser's own camera shows no face
    page.click("#record")
    page.wait_for_selector("#camera:visible")
    page.wait_for_timeout(1200)
    page.click("#record")
    page.wait_for_selector("#told:visible, #problem:visible")
    assert not page.inner_text("#problem")
    assert page.inner_text("#told").startswith("recording.webm: confidence")
    assert page.is_hidden("#camera")


def post(url: str, path: str, body: bytes) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"{url}{path}", body, timeout=60) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["error"]


def test_uploads_are_read_in_a_process_of_their_own(talk: Path) -> None:
    with serving() as url:
        status, answer = post(url, "api/read?kind=video&name=talk.mp4", talk.read_bytes())
        assert status == 200 and json.loads(answer)["text"] == TEXT
        status, sentence = post(url, "api/read?name=../../x.mp4", b"no clip")
        assert status == 422 and "avssl-upload" not in sentence


def test_what_the_model_cannot_read_is_a_sentence(
    url: str, talk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: Any) -> None:
        raise UserError("the scores are not finite")

    monkeypatch.setattr(answers, "transcribe", fails)
    status, sentence = post(url, "api/read?kind=video&name=talk.mp4", talk.read_bytes())
    assert status == 422 and "not finite" in sentence


def test_the_server_refuses_what_the_page_does_not_send(
    url: str, talk: Path, tmp_path: Path
) -> None:
    data = talk.read_bytes()
    assert post(url, "api/read?kind=smell", data)[0] == 400
    assert post(url, "api/search?kind=video", data)[0] == 404
    assert post(url, "api/read?name=x.mp4", bytes(3_000_000))[0] == 413
    long = tmp_path / "long.mp4"
    write_talk(long, "a" * 60)
    status, sentence = post(url, "api/read?name=long.mp4", long.read_bytes())
    assert status == 422 and "it lasts 12 s, this page takes up to 5 s" in sentence
    with urllib.request.urlopen(f"{url}api/about", timeout=60) as reply:
        about = json.load(reply)
    assert (
        about["kinds"] == ["video", "audio", "both"]
        and "both reads lips and sound" in about["title"]
    )


def test_serve_takes_no_clip(
    talk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in ([talk], ["--json"], ["--audio"]):
        assert lipread(monkeypatch, "--serve", "--model", "x", *arguments) == 2
        assert "clips are given on its page" in capsys.readouterr().err
    with PageServer(host="127.0.0.1", port=0) as taken:
        port = taken.server_address[1]
        assert lipread(monkeypatch, "--serve", "--model", "x", "--port", port) == 2
        assert f"port {port}" in capsys.readouterr().err


def repacked(talk: Path, target: Path) -> Path:
    """The pictures in another container."""
    with av.open(str(talk)) as source, av.open(str(target), "w") as out:
        stream = out.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 96
        stream.bit_rate = 2_000_000
        for frame in source.decode(video=0):
            picture = av.VideoFrame.from_ndarray(frame.to_ndarray(format="rgb24"), format="rgb24")
            out.mux(stream.encode(picture))
        out.mux(stream.encode())
    return target

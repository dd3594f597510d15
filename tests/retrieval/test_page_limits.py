"""What the search page bears: large and odd files, lost ones, slow senders and other sites."""

import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from avssl.data.config import DataConfig, FbankConfig, FramesConfig
from avssl.data.container import MediaError
from avssl.data.manifest import Clip
from avssl.data.probe import probe_clip
from avssl.encoders.windows import given_clips
from avssl.page import preview, request, server
from avssl.page.helper import Helper
from avssl.page.origin import Origins
from avssl.page.preview import Previews
from avssl.page.refusal import Refusal
from avssl.page.server import PageServer
from avssl.page.stretch import Stretch
from avssl.retrieval.build import index_clips
from avssl.retrieval.page import answers, upload
from avssl.retrieval.page.answers import Page
from avssl.retrieval.search import Match, Search
from tests.data.conftest import write_media

SOUND = DataConfig(inputs={"audio": FbankConfig(bins=32, frames=64)})
PICTURE = DataConfig(inputs={"video": FramesConfig(frames=4, size=32)})


def take(size: int) -> int:
    return len(bytearray(size))


def fail(path: str) -> None:
    raise ValueError(f"{path} is odd")


@pytest.fixture(scope="module")
def helper() -> Iterator[Helper]:
    helper = Helper(seconds=20.0)
    yield helper
    helper.close()


@pytest.fixture
def lost(model: Path, tmp_path: Path) -> Search:
    """Three clips of which one, clips/1.mp4, went after it had been indexed."""
    source, folder = tmp_path / "clips", tmp_path / "index"
    source.mkdir()
    for number in range(3):
        write_media(source / f"{number}.mp4", audio="aac", count=25 + number)
    index_clips(str(source), run=model, folder=folder, memory=10**9, workers=0)
    (source / "1.mp4").unlink()
    return Search.open(folder)


@contextmanager
def serving(page: Page) -> Iterator[PageServer]:
    server = PageServer(host="127.0.0.1", port=0)
    thread = threading.Thread(target=server.serve, args=(page,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()


def test_a_helper_survives_what_it_is_given(helper: Helper) -> None:
    assert helper(take, 1000) == 1000
    with pytest.raises(MediaError, match="more than 2 GiB of memory"):
        helper(take, 5 << 30)
    with pytest.raises(MediaError, match=r"^cannot be read$"):  # and not which path
        helper(fail, "/home/x/y.mp4")
    slow = Helper(seconds=0.2)
    with pytest.raises(MediaError, match=r"took longer than 0\.2 s"):
        slow(time.sleep, 60)
    with pytest.raises(MediaError, match="its reader ended unexpectedly"):
        helper(os._exit, 1)
    assert helper(take, 7) == 7  # another process


@pytest.mark.parametrize(("width", "height"), [(9000, 9000), (64, 16000)])
def test_small_files_with_large_pictures_are_refused(
    tmp_path: Path, width: int, height: int
) -> None:
    still, film = tmp_path / "a.png", tmp_path / "a.avi"
    Image.new("1", (width, height)).save(still)
    with av.open(str(film), "w") as out:
        stream = out.add_mux_stream("png", rate=25, width=width, height=height)
        for number in range(3):
            packet = av.Packet(still.read_bytes())
            packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream, number, number, True
            out.mux(packet)
    for path in (still, film):
        assert path.stat().st_size < 100_000
        with pytest.raises(MediaError, match=f"{width} x {height} pixels"):
            upload.read_upload(path, PICTURE, longest=600.0)


def test_a_still_is_searched_with(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(numbers).save(path)
    found = upload.read_upload(path, PICTURE, longest=600.0)
    assert found.has_video and not found.has_audio and len(found.strip) == 1
    ((_, expected),) = given_clips(str(path), PICTURE, sample_rate=None, fps=None, span="middle")[1]
    np.testing.assert_array_equal(found.inputs["video"], expected["video"])
    assert not upload.read_upload(path, SOUND, longest=600.0).inputs
    path.write_text("#!PS-Adobe-3.0 EPSF-3.0")
    with pytest.raises(MediaError, match="it is no picture"):
        upload.read_upload(path, PICTURE, longest=600.0)


def test_lost_clips_are_named_and_the_others_play(lost: Search) -> None:
    page = Page(lost)
    page.warm_up()
    assert {clip["name"] for clip in page.about()["examples"]} == {"0.mp4", "2.mp4"}
    for number in (0, 1):  # a clip that is there, and the lost one
        matches = {match["id"]: match for match in page.search_clip(number, by="audio")["matches"]}
        assert len(matches) == 3 and not matches[1]["url"] and not matches[1]["poster"]
        assert matches[0]["url"] and matches[2]["url"] and matches[0]["bytes"]
    for ask in (page.clips.media, lambda number: page.clips.pictures("poster", number)):
        with pytest.raises(Refusal, match=r"^1\.mp4 is not there any more\.$"):
            ask(1)
        ask(2)
    (lost.root(0) / "2.mp4").write_bytes(b"damaged")
    assert len(Page(lost).search_clip(2, by="video")["matches"]) == 3
    with pytest.raises(Refusal, match=r"^2\.mp4 cannot be shown: [^/]*$"):
        Page(lost).clips.pictures("poster", 2)


def test_a_copy_that_goes_is_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview, "_KEPT", 1)
    path = write_media(tmp_path / "a.avi", video="mpeg4", audio="pcm_s16le", count=25)
    stretch = Stretch(path, path, probe_clip(tmp_path, Clip(path="a.avi")), 0.0, 1.0)
    previews = Previews()
    with previews.open(0, stretch) as first, previews.open(1, stretch) as second:
        assert not Path(first.name).exists() and first.read()[4:8] == b"ftyp"
        assert second.read()[4:8] == b"ftyp"


def test_the_heat_map_does_not_read_all_of_a_large_index(
    scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    query, search = Search.query, Search.open(scenes)

    def watched(self: Search, vector: Any, *, to: str, top: int) -> list[Match]:
        asked.append(top)
        return query(self, vector, to=to, top=top)

    monkeypatch.setattr(Search, "query", watched)
    monkeypatch.setattr(answers, "_MATCHES", 3)
    page = Page(search)
    found = page.search_clip(2, by="video")
    assert len(found["matches"]) == 3 and sum(found["spread"]) == 8
    assert found["compared"] == "all 8 clips"
    monkeypatch.setattr(answers, "_COMPARED", 4)
    found = page.search_clip(2, by="video")
    assert sum(found["spread"]) == 4 and found["compared"] == "4 of 8 clips, drawn at random"
    scores = [match["score"] for match in found["matches"]]
    assert found["lowest"] <= min(scores) and max(scores) <= found["highest"]
    assert asked == [3, 3]


def test_names_that_may_be_another_site_are_refused() -> None:
    def refused(host: str, name: str, path: str = "/api/about", **headers: str) -> bool:
        message = Message()
        for key, value in {"Host": name, **headers}.items():
            message[key.replace("_", "-")] = value
        try:
            Origins(host).check(message, path)
        except Refusal:
            return True
        return False

    mine = socket.gethostname()
    for host in ("0.0.0.0", "::", "192.0.2.7"):
        for name in ("192.0.2.7:7860", "[2001:db8::1]:7860", "localhost:7860", f"{mine}:1", mine):
            assert not refused(host, name)
        for name in ("evil.example:7860", "192.0.2.7.evil.example", "", f"{mine}.evil.example"):
            assert refused(host, name)
    assert not refused("films.example", "films.example:7860")
    assert refused("127.0.0.1", "192.0.2.7") and not refused("127.0.0.1", "[::1]:80")
    for site in ("cross-site", "same-site"):  # the latter: another port of this machine
        assert refused("127.0.0.1", "127.0.0.1:7860", Sec_Fetch_Site=site)
        assert not refused("127.0.0.1", "127.0.0.1:7860", path="/", Sec_Fetch_Site=site)
    assert not refused("127.0.0.1", "127.0.0.1:7860", Sec_Fetch_Site="same-origin")


def test_who_sends_slowly_keeps_nobody_waiting(
    scenes: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_UPLOADS", 1)
    monkeypatch.setattr(request, "_UPLOAD", 4.0)
    monkeypatch.setattr(request, "_PATIENCE", 3.0)
    page = Page(Search.open(scenes))
    page.warm_up()
    with serving(page) as running:
        address = running.server_address[:2]

        def post(body: bytes, length: int) -> http.client.HTTPConnection:
            connection = http.client.HTTPConnection(*address, timeout=60)
            connection.putrequest("POST", "/api/search?by=audio&name=a.wav")
            connection.putheader("Content-Length", str(length))
            connection.endheaders()
            connection.send(body)
            return connection

        begin = time.monotonic()
        slow = post(b"RIFF", 1000)
        sound = (clips / "00003.wav").read_bytes()
        reply = post(sound, len(sound)).getresponse()
        assert reply.status == 200 and json.load(reply)["matches"]
        dripping = threading.Thread(target=_drip, args=(slow.sock,), daemon=True)
        dripping.start()
        dripping.join(20)
        assert not dripping.is_alive() and 3.5 < time.monotonic() - begin < 20


def test_connections_are_counted(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_CONNECTIONS", 2)
    with serving(Page(Search.open(scenes))) as running:

        def ask(sender: socket.socket) -> bytes:
            sender.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            return sender.recv(13)

        address = running.server_address[:2]
        first, second = socket.create_connection(address), socket.create_connection(address)
        assert ask(first) == ask(second) == b"HTTP/1.1 200 "
        with socket.create_connection(address) as third:
            assert third.recv(13) == b"HTTP/1.1 503 "
        first.close()
        for _ in range(100):
            with socket.create_connection(address) as fourth:
                if ask(fourth) == b"HTTP/1.1 200 ":
                    break
            time.sleep(0.05)
        else:
            raise AssertionError("a closed connection is still counted")
        second.close()


def _drip(sender: socket.socket) -> None:
    """A byte now and then, until the other side closes."""
    try:
        for _ in range(900):
            sender.send(b"x")
            time.sleep(0.1)
    except OSError:
        pass

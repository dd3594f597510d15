"""The server behind the search page: what it gives, what it refuses, and how it starts."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import av
import numpy as np
import pytest

from avssl.data.manifest import Clip
from avssl.data.probe import probe_clip
from avssl.page.preview import Previews, plays
from avssl.page.server import PageServer
from avssl.page.stretch import Stretch
from avssl.retrieval.page.answers import Page
from avssl.retrieval.page.start import run_index
from avssl.retrieval.search import Search
from tests.data.conftest import number_in, write_media
from tests.retrieval.test_tool import TOOL, call


@pytest.fixture(scope="module")
def address(scenes: Path) -> Iterator[str]:
    """host:port of a server of the tests' index."""
    server = PageServer(host="127.0.0.1", port=0)
    thread = threading.Thread(target=server.serve, args=(Page(Search.open(scenes)),))
    thread.start()
    yield urlsplit(server.url).netloc
    server.shutdown()
    thread.join()


def get(address: str, path: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers of a request."""
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request("GET", path, headers=headers)
    reply = connection.getresponse()
    return reply.status, reply.read(), dict(reply.getheaders())


def post(address: str, path: Path, by: str) -> dict[str, object]:
    request = urllib.request.Request(
        f"http://{address}/api/search?by={by}&name={path.name}", path.read_bytes(), method="POST"
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        found: dict[str, object] = json.load(reply)
    return found


def test_media_are_sent_in_ranges(address: str, clips: Path) -> None:
    whole = (clips / "00002.mp4").read_bytes()
    status, body, headers = get(address, "/api/media/2")
    assert (status, body, headers["Content-Type"]) == (200, whole, "video/mp4")
    for asked, part in (("10-99", whole[10:100]), ("500-", whole[500:]), ("-7", whole[-7:])):
        status, body, headers = get(address, "/api/media/2", Range=f"bytes={asked}")
        assert status == 206 and body == part
        assert headers["Content-Range"].endswith(f"/{len(whole)}")
    assert get(address, "/api/media/2", Range=f"bytes={len(whole)}-")[0] == 416


@pytest.mark.parametrize(
    "path",
    [
        "/api/media/8", "/api/media/-1", "/api/media/1e9", "/api/media/../../../etc/passwd",
        "/api/media/%2e%2e/index.json", "/answers.py", "/../page.html", "/api/media/", "/api",
        "/clips/test/00000.mp4", "/api/spectrogram/8", "//etc/passwd", "/api/media/00000.mp4",
    ],
)  # fmt: skip
def test_only_clips_of_the_index_are_served(address: str, path: str) -> None:
    status, body, _ = get(address, path)
    assert status == 404 and set(json.loads(body)) == {"error"}


def test_other_sites_are_refused(address: str) -> None:
    assert get(address, "/")[0] == 200
    assert get(address, "/", Host="localhost:1234")[0] == 200
    assert get(address, "/api/about", Host="evil.example")[0] == 403  # a name bound to 127.0.0.1
    assert get(address, "/api/about", Origin="http://evil.example")[0] == 403
    assert get(address, "/api/media/2", **{"Sec-Fetch-Site": "cross-site"})[0] == 403
    policy = get(address, "/")[2]["Content-Security-Policy"]
    assert policy.startswith("default-src 'self'") and "http" not in policy


def test_requests_that_go_wrong_end_before_they_are_read(address: str) -> None:
    for length, status in (("200000000", b"413"), ("", b"411"), ("-5", b"411"), ("9" * 30, b"411")):
        host, port = address.split(":")
        with socket.create_connection((host, int(port)), timeout=20) as sender:
            sender.sendall(
                f"POST /api/search?by=audio&name=x.wav HTTP/1.1\r\nHost: {address}\r\n"
                f"Content-Length: {length}\r\n\r\n".encode()
            )  # and not a byte of the body
            assert sender.recv(100).split()[1] == status
    for broken in (b"GET /[ HTTP/1.1\r\nHost: [\r\n\r\n", b"GET //[x HTTP/1.1\r\n\r\n"):
        with socket.create_connection((host, int(port)), timeout=20) as sender:
            sender.sendall(broken)
            assert sender.recv(100).split()[1] in (b"400", b"403")
    with socket.create_connection((host, int(port)), timeout=20) as sender:  # leaves half way
        sender.sendall(
            f"POST /api/search?by=audio HTTP/1.1\r\nHost: {address}\r\n"
            "Content-Length: 1000\r\n\r\nRIFF".encode()
        )
    assert get(address, "/api/about")[0] == 200


def test_many_at_once_get_what_each_would_alone(address: str, clips: Path) -> None:
    asked = [(clips / f"0000{n}.{kind}", "audio") for n in range(2) for kind in ("mp4", "wav")]
    asked += [(clips / f"0000{n}.mp4", "video") for n in range(2, 4)]

    def ids(query: tuple[Path, str]) -> tuple[str, list[int]]:
        found = post(address, *query)
        return found["query"]["name"], [match["id"] for match in found["matches"]]  # type: ignore

    alone = [ids(query) for query in asked]
    assert len({tuple(found) for _, found in alone}) > 2
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ids, asked)) == alone


def test_previews_are_the_stretch_in_what_browsers_play(tmp_path: Path) -> None:
    for name, video, audio in (("a.avi", "mpeg4", "pcm_s16le"), ("b.mpg", None, "mp2")):
        path = write_media(tmp_path / name, video=video, audio=audio)
        clip = probe_clip(tmp_path, Clip(path=name))
        stretch = Stretch(path, path, clip, 1.0, 3.0)
        assert not plays(stretch)
        previews = Previews()
        with previews.open(0, stretch) as file, previews.open(0, stretch) as again:
            made = Path(file.name)
            assert again.name == file.name and plays(Stretch(made, made, clip, 0.0, 2.0))
        with av.open(str(made)) as copy:
            sound = np.concatenate([f.to_ndarray()[0] for f in copy.decode(audio=0)])
        # the click at 2 s is 1 s into the stretch, behind what the AAC encoder puts in front
        assert abs(int(np.abs(sound).argmax()) / 44100 - 1.0) < 0.05
        if video:
            with av.open(str(made)) as copy:
                shown = [number_in(f.to_ndarray(format="rgb24")) for f in copy.decode(video=0)]
            assert shown == list(range(25, 75))
    whole = write_media(tmp_path / "c.mp4", audio="aac")
    assert plays(Stretch(whole, whole, probe_clip(tmp_path, Clip(path="c.mp4")), 0.0, 4.0))
    mute = write_media(tmp_path / "d.mp4")
    beside = Stretch(mute, tmp_path / "d.wav", Clip(path="d.mp4", has_audio=True), 0.0, 4.0)
    assert not plays(beside)


def test_one_command_serves_a_run(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(TOOL), "serve", "--run", str(model), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as tool:
        assert tool.stdout is not None and tool.stderr is not None
        line = tool.stdout.readline()
        address = urlsplit(line.split()[0]).netloc
        assert "8 clips" in line and address.startswith("127.0.0.1:")
        assert len(json.loads(get(address, "/api/about")[1])["examples"]) == 8
        assert get(address, "/api/poster/0")[0] == 200  # by a helper, which ends, too
        tool.send_signal(signal.SIGINT)
        assert tool.wait(20) == 130
        said = tool.stderr.read()
    assert "first use" in said and "8/8" in said
    (made,) = (model / "indexes").glob("*/index.json")
    assert run_index(model, None, None, memory=10**9) == made.parent  # nothing is encoded again
    assert Search.open(made.parent).header.generation == 1 and len(Search.open(made.parent)) == 8


def test_a_folder_whose_name_is_not_utf8_is_indexed(
    model: Path, clips: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(model, tmp_path / "run"))
    source = tmp_path / os.fsdecode(b"s\xff")
    source.mkdir()
    shutil.copy(clips / "00001.mp4", source)
    assert len(Search.open(run_index(run, str(source), None, memory=10**9))) == 1


def test_mistakes_are_sentences(
    scenes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, sentence in (
            (["--index", scenes, "--port", port], f"port {port} (Address already in use)"),
            (["--index", scenes, "--port", 70000], "port 70000"),
            (["--index", scenes, "--host", "192.0.2.1", "--port", 0], "give another --port or"),
            (["--run", scenes / "none", "--port", 0], "there is no run at"),
            (["--index", scenes, "--data", "x"], "--index is searched as it is"),
        ):
            assert call(monkeypatch, "serve", *arguments) == 2
            said = capsys.readouterr().err
            assert sentence in said and said.count("\n") == 1

"""Loader processes: none outlives the program, and what ends one of them is one sentence."""

import multiprocessing.forkserver
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from avssl.data.config import DataConfig, FramesConfig
from avssl.data.dataset import ClipDataset
from avssl.data.loader import make_loader
from avssl.data.manifest import Manifest
from avssl.data.processes import server_context
from avssl.errors import UserError

SCRIPT = """
    import sys, decord, torch
    from avssl.data.config import DataConfig, FbankConfig, FramesConfig
    from avssl.data.dataset import ClipDataset
    from avssl.data.loader import make_loader
    from avssl.data.manifest import Manifest
    from avssl.errors import run_tool

    config = DataConfig(window=0.6, batch=4, workers=1,
                        inputs={"video": FramesConfig(frames=4, size=48)})
    manifest = Manifest.read(sys.argv[1])
    reader = decord.VideoReader(sys.argv[2])  # used before and after the workers start
    reader[3]
    torch.ones(300, 300) @ torch.ones(300, 300)

    @run_tool
    def main():
        for step, batch in enumerate(
            make_loader(ClipDataset(manifest, config), config, seed=0, start_step=0, steps=10**6)
        ):
            if step == 2:
                reader[4]
                print("running", flush=True)
    main()
"""


@pytest.fixture
def running(manifest: Manifest, tmp_path: Path) -> Iterator[tuple[Any, list[psutil.Process]]]:
    """A script without a main guard that loads for ever, and its helper processes."""
    manifest.write(manifest.root / "manifest.csv")
    script = tmp_path / "endless.py"
    script.write_text(textwrap.dedent(SCRIPT))
    arguments = [manifest.root / "manifest.csv", manifest.root / manifest.clips[0].path]
    process = subprocess.Popen(
        [sys.executable, script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n", process.communicate()[1]
    helpers = psutil.Process(process.pid).children(recursive=True)
    assert len(helpers) >= 2  # the fork server and a worker
    yield process, helpers
    for one in [process, *helpers]:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            pass
    process.communicate()


def test_threads_that_start_the_server_leave_the_environment_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inside: list[str | None] = []

    def slowly() -> None:
        inside.append(os.environ.get("PYTHONPATH"))
        time.sleep(0.02)

    monkeypatch.setattr(multiprocessing.forkserver, "ensure_running", slowly)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda _: server_context(), range(8)):
            pass
    assert "PYTHONPATH" not in os.environ
    assert inside == [str(Path(__file__).parents[2])] * 8  # none saw what another had added


def assert_gone(helpers: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(helpers, timeout=60)
    assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]


def test_no_orphans_when_the_parent_is_killed(running: Any) -> None:
    process, helpers = running
    process.kill()
    assert_gone(helpers)


def test_interrupt_ends_everything_quietly(running: Any) -> None:
    process, helpers = running
    for _ in range(8):  # Python drops a KeyboardInterrupt that arises in a destructor: press again
        os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C does
        try:
            _, errors = process.communicate(timeout=15)
            break
        except subprocess.TimeoutExpired:
            continue
    assert_gone(helpers)
    assert errors.count("Traceback") <= 1  # the script's own KeyboardInterrupt


def test_a_killed_worker_is_one_sentence(running: Any) -> None:
    process, helpers = running
    worker = next(one for one in helpers if one.parent().pid != process.pid)  # type: ignore[union-attr]
    worker.kill()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "error: a loader process was killed (signal 9)" in errors
    assert "Traceback" not in errors
    assert_gone(helpers)


def break_off(worker: int) -> None:
    os.kill(worker, signal.SIGKILL)
    raise ConnectionResetError("connection reset by peer")


class Handing:
    """What cannot be taken over, for its process is killed meanwhile."""

    def __reduce__(self) -> tuple[Any, tuple[int]]:
        return break_off, (os.getpid(),)


class KilledWhileHanding(ClipDataset):
    def collate(self, items: Any) -> dict[str, Any]:
        return {"batch": Handing()}


def test_a_worker_killed_while_it_hands_over_is_one_sentence(manifest: Manifest) -> None:
    config = DataConfig(
        window=0.4, batch=2, workers=1, inputs={"video": FramesConfig(frames=4, size=32)}
    )
    dataset = KilledWhileHanding(manifest, config, split=None, training=True)
    with pytest.raises(UserError, match=r"a loader process was killed \(signal 9\)"):
        next(iter(make_loader(dataset, config, seed=0, start_step=0, steps=3)))


FAILING = """
    import sys
    from pathlib import Path
    from avssl.data.config import DataConfig, FramesConfig
    from avssl.data.dataset import ClipDataset
    from avssl.data.loader import make_loader
    from avssl.data.manifest import Manifest
    from avssl.errors import UserError, run_tool

    def main():
        config = DataConfig(window=0.4, batch=2, inputs={"video": FramesConfig(frames=4, size=32)})
        dataset = ClipDataset(Manifest.read(sys.argv[1]), config, split=None, training=True)
        for batch in make_loader(dataset, config, seed=0, start_step=0, steps=1000):
            print("running", flush=True)
            if sys.argv[2] == "error":
                raise UserError("the loss is not finite")

    run_tool(main)()
"""


def fail(manifest: Manifest, tmp_path: Path, how: str, limit: str) -> tuple[int, str]:
    manifest.write(manifest.root / "manifest.csv")
    (tmp_path / "failing.py").write_text(textwrap.dedent(FAILING))
    command = [sys.executable, tmp_path / "failing.py", manifest.root / "manifest.csv", how]
    ended = subprocess.run(
        ["bash", "-c", f'ulimit -f {limit}; exec "$@"', "-", *command],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    return ended.returncode, ended.stderr


def test_an_error_beside_a_worker_ends_the_program(manifest: Manifest, tmp_path: Path) -> None:
    code, errors = fail(manifest, tmp_path, "error", "unlimited")
    assert code == 2 and errors == "error: the loss is not finite\n"


def test_shared_memory_that_is_full_is_one_sentence(manifest: Manifest, tmp_path: Path) -> None:
    code, errors = fail(manifest, tmp_path, "no error", "8")  # a limit on files counts there, too
    assert code == 2 and "/dev/shm is full" in errors


def test_the_fork_server_leaves_ctrl_c_to_its_parent() -> None:
    server_context()
    server = multiprocessing.forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    lines = Path(f"/proc/{server}/status").read_text().splitlines()
    [blocked] = [int(line.split()[1], 16) for line in lines if line.startswith("SigBlk:")]
    assert blocked >> (signal.SIGINT - 1) & 1

"""The folder that an evaluation writes into: its own, and one evaluation's alone.

A folder is taken when it is empty, or holds an earlier evaluation of the same model and task, whose
files are replaced. So figures never lie beside pictures of another evaluation, and results of a
training run are not overwritten.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from avssl.errors import UserError
from avssl.files import write_whole

RESULTS = "results.json"
_UNFINISHED = ".unfinished"  # files that are being made, in the folder they are for


@contextlib.contextmanager
def claimed(folder: Path, task: str) -> Iterator[None]:
    """Make the folder if need be, and keep other processes from writing into it.

    Raises:
        UserError: it cannot be written, another process does, or it holds something else.
    """
    with contextlib.ExitStack() as stack:
        _check_task(folder, task)  # before anything is written: it may be a run's folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(open(folder / ".lock", "w", encoding="utf-8"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is writing into {folder}: wait for it, or choose another folder "
                "with --out"
            ) from None
        except OSError as error:
            raise UserError(
                f"cannot write in {folder}: {error.strerror}; choose another folder with --out"
            ) from None
        _check_task(folder, task)
        yield


def _check_task(folder: Path, task: str) -> None:
    earlier = _earlier(folder)
    if earlier is not None and earlier["task"] != task:
        raise UserError(
            f"{folder} holds an evaluation by --task {earlier['task']}, not {task}: choose "
            "another folder with --out"
        )


def check_model(folder: Path, fingerprints: Mapping[str, str]) -> None:
    """Raises UserError when the folder holds the evaluation of other encoders than these."""
    earlier = _earlier(folder)
    if earlier is None:
        return
    known = earlier["model"]["encoders"]
    shared = known.keys() & fingerprints.keys()
    if not shared or any(known[name] != fingerprints[name] for name in shared):
        raise UserError(
            f"{folder} holds the evaluation of another model ({_named(known)}; this one has "
            f"{_named(fingerprints)}): choose another folder with --out"
        )


def replace_files(folder: Path, record: Mapping[str, Any], make: Callable[[Path], None]) -> None:
    """Put an evaluation's files in place of an earlier one's.

    record: what results.json holds; the files are noted in it. make: writes all other files into
    the folder that it is given.
    """
    unfinished = folder / _UNFINISHED
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    make(unfinished)
    try:
        earlier = _earlier(folder)
    except UserError:
        earlier = None  # something was put there meanwhile: no reason to lose the figures
    names = sorted(path.name for path in unfinished.iterdir())
    for name in names:
        os.replace(unfinished / name, folder / name)
    unfinished.rmdir()
    write_whole(folder / RESULTS, json.dumps({**record, "files": names}, indent=2) + "\n")
    for name in earlier["files"] if earlier else []:
        if name not in names and name == Path(name).name and (folder / name).is_file():
            (folder / name).unlink()


def _earlier(folder: Path) -> dict[str, Any] | None:
    """The record of the evaluation that a folder holds; None for an empty folder or none at all.

    Raises UserError when it holds something else.
    """
    if not folder.is_dir():
        return None
    others = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if not others:
        return None
    try:
        found = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        texts = [found["task"], *found["files"], *found["model"]["encoders"].values()]
        if all(isinstance(text, str) for text in texts):
            return dict(found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    raise UserError(
        f"{folder} is neither empty nor an evaluation's (it holds {others[0]}): choose another "
        "folder with --out"
    )


def _named(fingerprints: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {fingerprint}" for name, fingerprint in fingerprints.items())

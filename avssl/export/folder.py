"""An export's folder: written whole or not at all, and never over another one."""

from __future__ import annotations

import fcntl
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from avssl.errors import UserError

RECORD = "export.json"


def already_there(out: Path, record: Mapping[str, Any]) -> bool:
    """Whether `out` holds this very export.

    record: what makes an export the same: format, module, fingerprint and so on.

    Raises UserError when something else is there.
    """
    if not os.path.lexists(out) or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        found = json.loads((out / RECORD).read_text(encoding="utf-8"))
        complete = all((out / name).stat().st_size == size for name, size in found["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"--out {out} is there already: give another folder") from None
    other = [
        f"{key} is {found.get(key)!r} there" for key in record if found.get(key) != record[key]
    ]
    if other:
        raise UserError(
            f"--out {out} holds another export ({', '.join(other)}): give another folder"
        )
    if not complete:
        raise UserError(f"--out {out} holds this export, but not whole: remove it first")
    return True


def remove_stale(out: Path) -> None:
    """Remove what killed exports to `out` left beside it; those that are running stay."""
    out = Path(os.path.abspath(out))
    for folder in out.parent.glob(f"{glob.escape(_prefix(out))}????????"):
        with suppress(OSError), _locked(folder) as mine:  # what is no folder of ours stays
            if mine:
                shutil.rmtree(folder)


@contextmanager
def whole_folder(out: Path, record: Mapping[str, Any]) -> Iterator[Path]:
    """A folder to write into, which becomes `out` at the end; nothing is left after an exception,
    and what a killed process leaves, `remove_stale` finds.

    Raises:
        UserError: `out` cannot be made, or was made by someone else meanwhile.
    """
    out = Path(os.path.abspath(out))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"--out {out} lies inside a file: give another folder") from None
    with _holder(out) as holder:
        folder = holder / out.name
        folder.mkdir()
        yield folder
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
        text = json.dumps({**record, "files": sizes}, indent=1)
        (folder / RECORD).write_text(text + "\n", encoding="utf-8")
        for path in [*files, folder / RECORD]:
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        try:
            os.rename(folder, out)
        except OSError as error:
            raise UserError(f"--out {out} cannot be written: {error.strerror}") from None


@contextmanager
def _holder(out: Path) -> Iterator[Path]:
    """A new hidden folder beside `out`, locked while it is there."""
    while True:
        holder = Path(tempfile.mkdtemp(prefix=_prefix(out), dir=out.parent))
        with _locked(holder) as mine:
            if mine is not False:  # else another export took it for a stale one: a new one
                try:
                    yield holder
                finally:
                    shutil.rmtree(holder, ignore_errors=True)
                return


def _prefix(out: Path) -> str:
    """Of the hidden folders of exports to `out`; tempfile adds 8 characters."""
    return f".{out.name}.avssl-export."


@contextmanager
def _locked(folder: Path) -> Iterator[bool | None]:
    """Lock a folder; the system opens the lock when the process ends, however it ends.

    Yields False where another process holds it or the folder is gone, None where the file system
    has no locks.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        yield False
        return
    try:
        mine: bool | None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = folder.is_dir()
        except BlockingIOError:
            mine = False
        except OSError:
            mine = None
        yield mine
    finally:
        os.close(handle)

"""An export's folder: written whole or not at all, and never over another one."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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


@contextmanager
def whole_folder(out: Path, record: Mapping[str, Any]) -> Iterator[Path]:
    """A folder to write into, which becomes `out` at the end; nothing is left after an exception.

    Raises:
        UserError: `out` cannot be made, or was made by someone else meanwhile.
    """
    out = Path(os.path.abspath(out))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        holder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"--out {out} lies inside a file: give another folder") from None
    try:
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
    finally:
        shutil.rmtree(holder, ignore_errors=True)

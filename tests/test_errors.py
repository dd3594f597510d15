"""What a user sees of an error: one sentence and exit code 2, no traceback."""

import io
from pathlib import Path

import pytest

from avssl.errors import ConfigError, UserError, run_tool


def fail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (UserError("no clips in 'x'"), 2, "error: no clips in 'x'"),
        (ConfigError(["a:1:1: one.", "a:2:1: two."]), 2, "2 problems found."),
        (KeyboardInterrupt(), 130, "stopped."),
    ],
)
def test_errors_end_with_a_sentence(
    error: BaseException, code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run_tool(lambda: fail(error))()
    assert caught.value.code == code
    assert text in capsys.readouterr().err


def test_a_path_that_cannot_be_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run_tool(lambda: fail_to_write(tmp_path / "none" / "file"))()
    assert caught.value.code == 2
    assert "none/file': No such file or directory" in capsys.readouterr().err


def test_bytes_of_a_file_name_are_printed_as_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(out, "utf-8", "strict", write_through=True))
    with pytest.raises(SystemExit):
        run_tool(lambda: print("a\udcff.mp4"))()
    assert out.getvalue() == b"a\\udcff.mp4\n"


def fail_to_write(path: Path) -> None:
    path.write_text("")


def test_our_own_mistakes_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_tool(lambda: fail(ZeroDivisionError()))()

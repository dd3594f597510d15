"""Errors that a user can mend: sentences, no traceback, exit code 2."""

import functools
import io
import sys
from collections.abc import Callable, Sequence


class UserError(Exception):
    """A mistake in what the user gave: says what was found, where, and what to do."""


class ConfigError(UserError):
    """Every mistake found in a configuration, reported in one go.

    Args:
        messages: one ``file:line:col: sentence`` for each mistake, in file order.
    """

    def __init__(self, messages: Sequence[str]) -> None:
        super().__init__("\n".join(messages))
        self.messages = list(messages)


def run_tool(main: Callable[[], int | None]) -> Callable[[], None]:
    """Wrap the main function of a command-line tool: user errors end it with exit code 2.

    What standard output cannot encode, such as bytes of a file name, is printed as escapes.
    """

    @functools.wraps(main)
    def wrapped() -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            code = main()
        except ConfigError as error:
            print(error, file=sys.stderr)
            count = len(error.messages)
            print(f"{count} problem{'s' if count > 1 else ''} found.", file=sys.stderr)
            sys.exit(2)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except BrokenPipeError:
            sys.exit(0)
        except OSError as error:
            if error.filename is None:
                raise
            print(f"error: '{error.filename}': {error.strerror}.", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print("stopped.", file=sys.stderr)
            sys.exit(130)
        sys.exit(code or 0)

    return wrapped

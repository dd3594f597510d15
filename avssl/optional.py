"""Optional packages: imported where they are used, with a sentence that says how to get them."""

import importlib
from types import ModuleType

from avssl.errors import UserError


def need(package: str, *, extra: str, purpose: str) -> ModuleType:
    """Import a package that only one extra of avssl installs.

    need("faiss", extra="retrieval", purpose="the search index")

    Raises UserError when it is not installed, with the command that installs it.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package.partition(".")[0]:
            raise
        raise UserError(
            f"{purpose} needs the package '{package}', which is not installed: "
            f"pip install 'avssl[{extra}]'"
        ) from None

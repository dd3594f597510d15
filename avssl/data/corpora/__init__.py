"""Built-in corpora: real files rendered once, so that a first run needs nothing to download."""

from avssl.data.corpora.cache import ensure_corpus

__all__ = ["ensure_corpus"]

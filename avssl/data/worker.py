"""What the fork server imports before it forks processes; they open decoders themselves."""

import contextlib

import av  # noqa: F401
import soundfile  # noqa: F401

import avssl.data.dataset
import avssl.data.probe  # noqa: F401

with contextlib.suppress(ImportError):  # not made for every platform
    import decord  # noqa: F401

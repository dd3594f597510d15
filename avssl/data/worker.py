"""What the fork server imports before it forks loader workers; decoders are opened in the workers."""

import av  # noqa: F401
import decord  # noqa: F401
import soundfile  # noqa: F401

import avssl.data.dataset  # noqa: F401

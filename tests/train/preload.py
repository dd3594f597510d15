"""What the fork server of the training tests imports once, so that a child starts in no time."""

import avssl.blocks.transformer
import avssl.losses.contrast
import avssl.train.clips
import avssl.train.probes
import avssl.train.run  # noqa: F401

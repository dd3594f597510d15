"""From videos of faces to stabilised crops of the mouth, as lip-reading models take them."""

from avssl.lips.crops import mouth_crops

__all__ = ["mouth_crops"]

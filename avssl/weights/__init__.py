"""Weights of other projects: as encoders (configs/encoders), or where training starts from."""

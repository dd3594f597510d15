"""Trained encoders with their preparation attached: what `avssl.load` gives."""

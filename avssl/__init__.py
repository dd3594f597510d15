"""avssl: audio-visual self-supervised learning from YAML graphs of small PyTorch blocks."""

__version__ = "0.1.0"

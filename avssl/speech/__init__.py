"""Speech recognition: units of text, search, readers of fine-tuned models."""

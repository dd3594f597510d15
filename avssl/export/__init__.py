"""Trained encoders as files for other programs: avssl, timm, Hugging Face, ONNX, AV-SUPERB."""

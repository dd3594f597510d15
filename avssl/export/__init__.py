"""Trained encoders as files for other programs: avssl, timm, Hugging Face, ONNX, AV-SUPERB."""

# format -> the module of avssl.export that has `write`, `check` and TOLERANCE
FORMATS = {
    "safetensors": "encoder_folder",
    "timm": "timm_folder",
    "hf": "hf_folder",
    "onnx": "onnx_file",
    "avsuperb": "benchmark_folder",
}

"""Write an encoder for another program, and check that it gives the same features there.

    python tools/export.py runs/mavil --module audio --format onnx --out audio_onnx

Formats:
    safetensors  a folder that avssl.load reads: encoder.yaml, graph files, model.safetensors
    timm         timm's VisionTransformer, for a plain ViT over a spectrogram or one picture
    hf           ViTModel, ASTModel or VideoMAEModel of transformers
    onnx         model.onnx, any batch size; of most encoders any length up to the trained one
    avsuperb     expert.py and hubconf.py for AV-SUPERB and S3PRL, with the encoder beside

The run may also be an exported folder or a checkpoint of another project.
"""

import argparse
from pathlib import Path

from avssl.arguments import add_model_options
from avssl.errors import run_tool
from avssl.export import FORMATS


def main() -> int:
    """Read the command line and export."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run folder, exported folder or checkpoint")
    parser.add_argument("--module", required=True, help="such as audio, video, audio_video")
    parser.add_argument("--format", required=True, choices=FORMATS)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    add_model_options(parser)
    options = parser.parse_args()

    from avssl.export.command import export  # after the arguments, so that --help is quick

    worst = export(
        options.run,
        module=options.module,
        kind=options.format,
        out=options.out,
        stage=options.stage,
        layout=options.layout,
        allow=options.allow,
        sizes=dict(options.sizes),
    )
    if worst is None:
        print(f"{options.out} holds this export already")
    else:
        print(
            f"{options.out}: {options.module} as {options.format}, largest difference {worst:.2g}"
        )
    return 0


if __name__ == "__main__":
    run_tool(main)()

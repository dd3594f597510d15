"""Features of every clip of a folder, a manifest or a built-in corpus.

    python tools/extract.py runs/mavil /path/to/clips --module video --out features
    python tools/extract.py runs/mavil corpus:scenes --module audio --layer 1 2 3 --pool none
    python tools/extract.py weights/mae.pth pictures --module image --format parquet

A stopped run goes on where it was when the same command is given again. The output folder holds
features-00000.* and so on (some hundred clips each, with path, start, end and label), and
failures.csv with every clip that could not be used, and why.
"""

import argparse
from pathlib import Path

from avssl.arguments import add_model_options, count, whole
from avssl.errors import run_tool


def main() -> None:
    """Read the command line and extract."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="run folder, exported folder or checkpoint file")
    parser.add_argument(
        "data", help="folder of media or pictures, shards, manifest.csv or corpus:NAME"
    )
    parser.add_argument("--module", required=True, help="encoder, such as audio or audio_video")
    parser.add_argument("--out", type=Path, default=Path("features"), help="folder to write to")
    parser.add_argument(
        "--layer", type=int, nargs="+", help="0 embedded patches, k block k; its own output without"
    )
    parser.add_argument("--pool", choices=("mean", "cls", "none"), default="mean")
    parser.add_argument(
        "--span", choices=("all", "middle"), default="all", help="of a clip, or its middle window"
    )
    parser.add_argument(
        "--format", choices=("safetensors", "parquet", "numpy"), default="safetensors"
    )
    parser.add_argument("--split", choices=("train", "val", "test"), help="all clips without")
    add_model_options(parser)
    parser.add_argument("--device", default="cpu", help="such as cuda")
    parser.add_argument("--batch", type=count, default=32, help="windows encoded at a time")
    parser.add_argument("--workers", type=whole, default=1, help="processes that read clips")
    parser.add_argument("--shard", type=count, default=500, help="clips of one file")
    options = parser.parse_args()

    import avssl  # after the arguments, so that --help is quick
    from avssl.encoders.extract import Wanted, extract

    encoders = avssl.load(
        options.model,
        stage=options.stage,
        layout=options.layout,
        allow=options.allow,
        sizes=dict(options.sizes),
        device=options.device,
    )
    layer = options.layer
    found = extract(
        encoders,
        options.data,
        options.out,
        Wanted(
            module=options.module,
            layer=layer and (layer[0] if len(layer) == 1 else tuple(layer)),
            pool=options.pool,
            span=options.span,
            format=options.format,
            split=options.split,
            shard=options.shard,
        ),
        batch=options.batch,
        workers=options.workers,
    )
    rate = found.written / found.seconds if found.seconds else 0.0
    print(
        f"{found.written} clips written to {options.out} ({rate:.1f} clips/s), {found.before} were "
        f"there before, {len(found.failures)} cannot be used"
    )
    for path, _, _, reason in found.failures[:10]:
        print(f"  {path}: {reason}")


if __name__ == "__main__":
    run_tool(main)()

"""Find clips by sound or picture: index a collection with a trained model, then ask it.

    python tools/retrieve.py index corpus:scenes --split test --run runs/mavil --out scenes_index
    python tools/retrieve.py query dog.wav --to video --index scenes_index --picture found.png
    python tools/retrieve.py index pictures --run runs/mae --out pictures_index
    python tools/retrieve.py query cat.jpg --index pictures_index
    python tools/retrieve.py serve --run runs/mavil

`index` adds to an index that is there: clips it holds are skipped, a run that was stopped goes on
where it was, and clips that cannot be read are listed and left out. Exit code: 0, or 2 for wrong
use. `serve` shows a web page on this machine; without --index it searches the test split of the
run's own data, which is indexed on first use.
"""

import argparse
import json
import sys
from pathlib import Path

from avssl.arguments import count
from avssl.errors import UserError, run_tool
from avssl.retrieval.memory import MEMORY, memory_size

SHOWN = 20  # clips with a fault that are listed


@run_tool
def main() -> int:
    """Read the command line and do what it says."""
    options = _parser().parse_args()
    done: int = options.do(options)
    return done


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="index|query|serve")
    index = commands.add_parser("index", help="add the clips of a source to an index")
    index.set_defaults(do=_index)
    index.add_argument(
        "source",
        help="corpus:NAME, a folder of media or pictures, shards (a-{000..010}.tar), or a "
        "manifest.csv",
    )
    index.add_argument("--run", type=Path, required=True, help="run folder, or exported model")
    index.add_argument("--out", type=Path, default=Path("index"), help="index folder")
    index.add_argument("--split", choices=("train", "val", "test"), help="default: all clips")
    index.add_argument(
        "--modality", action="append", choices=("audio", "video"),
        help="what clips can be found by; default: all that the model and some clip have",
    )  # fmt: skip
    index.add_argument(
        "--precision", choices=("float32", "float16"), default="float32",
        help="of the stored vectors; float16 takes half the space",
    )  # fmt: skip
    index.add_argument("--workers", type=count, default=1, help="processes that read clips")
    index.add_argument("--device", default="cpu", help="where the model runs: cpu, cuda")
    query = commands.add_parser("query", help="the clips nearest to a file")
    query.set_defaults(do=_query)
    query.add_argument("file", type=Path, help="a clip, a sound or a picture")
    query.add_argument(
        "--to", choices=("video", "audio"),
        help="what to compare with; default: what the index is of, where that is one",
    )  # fmt: skip
    query.add_argument(
        "--by", choices=("audio", "video"),
        help="what of the file to use; default: the other one, where file and model have it",
    )  # fmt: skip
    query.add_argument("--index", type=Path, default=Path("index"), help="index folder")
    query.add_argument("--run", type=Path, help="where the model is, if it was moved")
    query.add_argument("--top", type=count, default=10, help="matches")
    query.add_argument("--json", action="store_true", help="print JSON instead of a table")
    query.add_argument("--picture", type=Path, metavar="PNG", help="contact sheet of the matches")
    serve = commands.add_parser("serve", help="a web page to search on, by upload or microphone")
    serve.set_defaults(do=_serve)
    serve.add_argument("--index", type=Path, help="index folder; default: one kept for the run")
    serve.add_argument("--run", type=Path, help="run folder or exported model; default: runs/mavil")
    serve.add_argument("--data", help="corpus:NAME, folder or manifest; default: the run's own")
    serve.add_argument(
        "--split", choices=("train", "val", "test"),
        help="default: test of the run's own data, all clips of --data",
    )  # fmt: skip
    serve.add_argument("--port", type=int, default=7860, help="default: 7860; 0: any free one")
    serve.add_argument(
        "--host", default="127.0.0.1",
        help="default: 127.0.0.1, this machine only; 0.0.0.0: every network it is in",
    )  # fmt: skip
    for command in (index, query, serve):
        command.add_argument(
            "--memory", type=memory_size, default=MEMORY, help=f"allowed; default: {MEMORY}"
        )
    return parser


def _index(options: argparse.Namespace) -> int:
    from avssl.retrieval.build import index_clips  # after the arguments: --help is quick
    from avssl.retrieval.show import printable

    done = index_clips(
        options.source,
        run=options.run,
        folder=options.out,
        modalities=options.modality,
        split=options.split,
        precision=options.precision,
        memory=options.memory,
        workers=options.workers,
        device=options.device,
    )
    for title, clips in (("unreadable", done.unreadable), ("left out", done.left_out)):
        for path, reason in clips[:SHOWN]:
            print(f"{title}: {printable(path)}: {reason}")
        if len(clips) > SHOWN:
            print(f"{title}: and {len(clips) - SHOWN} more")
    print(
        f"{options.out}: {done.number} clips; {done.added} added, {done.already} were there, "
        f"{len(done.unreadable)} unreadable, {len(done.left_out)} left out"
    )
    return 0


def _query(options: argparse.Namespace) -> int:
    from avssl.retrieval.search import Search
    from avssl.retrieval.show import as_json, contact_sheet, printable, table

    if options.picture and options.picture.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UserError(f"--picture {options.picture} must end in .png or .jpg")
    search = Search.open(options.index, memory=options.memory, run=options.run)
    to = options.to or search.modalities[0]
    if options.to is None and len(search.modalities) > 1:
        raise UserError(f"{options.index} is of sound and picture: say which with --to")
    warning = search.warning(to)
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    by = options.by or search.way(options.file, to)
    matches = search.query(search.embed(options.file, by), to=to, top=options.top)
    if len(matches) < min(options.top, len(search)):
        print(f"warning: only {len(matches)} of {len(search)} clips are ranked", file=sys.stderr)
    print(json.dumps(as_json(search, matches), indent=1) if options.json else table(matches))
    if options.picture:
        for path, reason in contact_sheet(options.picture, search, matches):
            print(f"no picture of {printable(path)}: {reason}", file=sys.stderr)
    return 0


def _serve(options: argparse.Namespace) -> int:
    if options.index and (options.data or options.split):
        raise UserError("--index is searched as it is: leave --data and --split out")
    from avssl.retrieval.page.start import serve

    serve(
        index=options.index,
        run=options.run,
        source=options.data,
        split=options.split,
        host=options.host,
        port=options.port,
        memory=options.memory,
    )
    return 0


if __name__ == "__main__":
    main()

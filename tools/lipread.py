"""Read what is said in a clip from its lips, its sound, or both, with a fine-tuned model.

    python tools/lipread.py clip.mp4 --model runs/vsr
    python tools/lipread.py clip.mp4 --model runs/avsr --both --captions captioned.mp4
    python tools/lipread.py --serve --model runs/vsr --model runs/asr --model runs/avsr

Prints the text, how sure the model is, and each word with its times. Small square pictures are
mouth crops already; of others the mouth is looked for, which needs the extra 'lips'. A clip that is
longer than the model reads at once is read in pieces that share a second. --serve shows a web page
on this machine. Exit code: 0, or 2 for wrong use and clips that cannot be read.
"""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

from avssl.arguments import count
from avssl.errors import UserError, run_tool


@run_tool
def main() -> int:
    """Read the command line and do what it says."""
    options = _parser().parse_args()
    if options.serve:
        return _serve(options)
    if options.port is not None or options.host is not None:
        raise UserError("--port and --host are of the web page: they need --serve")
    if options.clip is None:
        raise UserError("give a clip to read, or --serve for the web page")
    return _read(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clip", type=Path, nargs="?", help="a video, or a sound with --audio")
    parser.add_argument(
        "--model", type=Path, action="append", required=True,
        help="run folder of tools/finetune.py; may be given again, the one that reads what is "
        "asked for is taken",
    )  # fmt: skip
    streams = parser.add_mutually_exclusive_group()
    streams.add_argument(
        "--audio", dest="kind", action="store_const", const="audio", help="read the sound"
    )
    streams.add_argument(
        "--both", dest="kind", action="store_const", const="both", help="read lips and sound"
    )
    parser.set_defaults(kind="video")
    parser.add_argument("--captions", type=Path, metavar="MP4", help="write the clip with its text")
    parser.add_argument("--json", action="store_true", help="print JSON instead")
    parser.add_argument("--greedy", action="store_true", help="search greedily, by CTC alone")
    parser.add_argument("--beam", type=count, help="hypotheses; default: as the model was scored")
    parser.add_argument("--device", default="cpu", help="where the model runs: cpu, cuda")
    parser.add_argument("--serve", action="store_true", help="show a web page instead")
    parser.add_argument("--port", type=int, help="of the page; default: 7861; 0: any free one")
    parser.add_argument(
        "--host",
        help="of the page; default: 127.0.0.1, this machine only; 0.0.0.0: every network it is in",
    )  # fmt: skip
    return parser


def _read(options: argparse.Namespace) -> int:
    from avssl.data.scan import ProgressLine  # after the arguments: --help is quick
    from avssl.speech.captions import check_picture, check_target, write_captions
    from avssl.speech.clip import read_clip
    from avssl.speech.readers import Readers, described, searched
    from avssl.speech.transcribe import transcribe

    if options.captions:
        check_target(options.clip, options.captions)
    readers = Readers(options.model, device=options.device)
    reader = readers.reader(options.kind)
    settings = searched(reader.settings, greedy=options.greedy, beam=options.beam)
    progress = ProgressLine("finding the mouth", unit="looks")
    clip = read_clip(options.clip, readers.data(options.kind), progress=progress)
    if options.captions:
        check_picture(options.clip, clip.row)
    begin = time.perf_counter()
    found = transcribe(reader, clip, settings=settings)
    seconds = time.perf_counter() - begin
    if options.json:
        about = {
            "kind": options.kind,
            "model": str(readers.folder(options.kind)),
            "decode": asdict(settings),
        }
        print(json.dumps(found.as_json() | about, indent=1, ensure_ascii=False))
    else:
        print(found.text or "(nothing was said)")
        print(
            f"confidence {found.confidence:.2f}; {found.seconds:.1f} s read in {seconds:.2f} s "
            f"({options.kind}, {described(settings)})"
        )
        for word in found.words:
            print(f"{word.start:7.2f} - {word.end:6.2f} s  {word.text}  {word.confidence:.2f}")
    if options.captions:
        write_captions(options.clip, clip.row, found.words, options.captions)
    return 0


def _serve(options: argparse.Namespace) -> int:
    alone = [options.clip, options.captions, options.json, options.greedy, options.beam]
    if any(alone) or options.kind != "video":
        raise UserError(
            "--serve takes --model, --device, --host and --port: clips are given on its page"
        )
    from avssl.speech.page.start import serve
    from avssl.speech.readers import Readers

    def load() -> Readers:
        return Readers(options.model, device=options.device)

    port = 7861 if options.port is None else options.port
    serve(load, host=options.host or "127.0.0.1", port=port)
    return 0


if __name__ == "__main__":
    main()

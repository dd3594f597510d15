"""One run, from the command line's arguments to the final table."""

from __future__ import annotations

import errno
import signal
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from avssl.errors import UserError
from avssl.finetune.read import refuse_classifier_file
from avssl.train.experiment import load_experiment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def train(path: Path, overrides: Sequence[str] = ()) -> int:
    """Train an experiment, or continue it, up to the final table.

    Returns:
        0, or 128 + the signal that ended it before.

    Raises:
        ConfigError: mistakes in the configuration, all of them, before any data is read.
        UserError: what a user can mend, such as a fine-tuning file, a full disk, a loss that is not
        finite, or a run folder of another run.
    """
    refuse_classifier_file(path)
    experiment = load_experiment(path, overrides)

    from avssl.ops.attention import set_attention_backend
    from avssl.train import parallel, probes
    from avssl.train.clips import open_clips
    from avssl.train.loop import Session, run_stages
    from avssl.train.preparation import prepared_otherwise
    from avssl.train.run_folder import RunFolder
    from avssl.train.signals import StopRequest
    from avssl.train.teacher_cache import check_caches

    config = experiment.config
    # batches with a budget of frames are made to be shared evenly
    world = parallel.start(config.train, config.data.batch if config.data.lengths is None else None)
    parallel.share_cores(world, config.data.workers, threads=config.train.threads)
    set_attention_backend(None if config.train.attention == "auto" else config.train.attention)
    for sentence in prepared_otherwise(experiment) if world.main else ():
        print(f"warning: {sentence}", file=sys.stderr, flush=True)
    folder = RunFolder(Path(config.run))
    with _disk_errors(folder.path), folder.held() if world.main else nullcontext():
        world.first(lambda: folder.claim(config, experiment.graphs, experiment.files))
        clips = open_clips(config.data, world)
        needed = probes.splits(experiment)
        clips.require(needed)
        world.first(lambda: check_caches(experiment, folder, clips, world.device))
        with StopRequest() as stop:
            session = Session(experiment, folder, clips, world, stop)
            finished = run_stages(session)
        parallel.stop()
        if not finished:
            return 128 + (stop.asked or signal.SIGTERM)
        if not world.main:
            return 0
        measured = (folder.path / "results.json").is_file() or "test" not in needed
        if folder.card.is_file() and measured:
            print(f"{folder.path} was finished earlier, see {folder.card}")
        else:
            probes.final_table(session)
            print(f"done: {folder.path}")
    return 0


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Turn a full disk, a quota or a folder that cannot be written into a sentence."""
    try:
        yield
    except OSError as error:
        known = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
        if error.errno not in known:
            raise
        raise UserError(
            f"could not write in {folder}: {error.strerror}. Earlier checkpoints are intact; "
            "mend this and run the same command again."
        ) from error

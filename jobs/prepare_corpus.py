"""Prepare a corpus: decode and resize media into tubelet-ready clip shards."""

import sys

from jobs.command import run
from pipeline.runs.dry_run import dry_run
from pipeline.runs.prepare import prepare
from pipeline.runs.prepare_config import PrepareConfig
from pipeline.runs.record import StartClock


def prepare_corpus(config: PrepareConfig, clock: StartClock) -> int:
    """Run the job, or say what it would be."""
    if config.dry_run:
        sys.stdout.write(str(dry_run(config)))
    else:
        prepare(config, clock=clock)
    return 0


def main() -> int:
    """Entry point."""
    return run(PrepareConfig, prepare_corpus)


if __name__ == "__main__":
    sys.exit(main())

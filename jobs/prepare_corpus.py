"""Prepare a corpus: decode and resize media into tubelet-ready clip shards."""

import sys

from jobs.command import run
from pipeline.runs.prepare import PrepareConfig, prepare
from pipeline.runs.record import StartClock


def prepare_corpus(config: PrepareConfig, clock: StartClock) -> int:
    """Run the job."""
    prepare(config, clock=clock)
    return 0


def main() -> int:
    """Entry point."""
    return run(PrepareConfig, prepare_corpus)


if __name__ == "__main__":
    sys.exit(main())

"""Encode a corpus: the posterior of every clip, stored or made of media, in the store that generator training reads."""

import sys

from jobs.command import run
from pipeline.runs.encode import EncodeConfig, encode
from pipeline.runs.record import StartClock


def encode_corpus(config: EncodeConfig, clock: StartClock) -> int:
    """Run the job."""
    encode(config, clock=clock)
    return 0


def main() -> int:
    """Entry point."""
    return run(EncodeConfig, encode_corpus)


if __name__ == "__main__":
    sys.exit(main())

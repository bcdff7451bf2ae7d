"""Encode a corpus: the posterior of every clip, in a latent store that generator training reads."""

import sys

from jobs.command import run
from pipeline.runs.encode import EncodeConfig, encode


def encode_corpus(config: EncodeConfig, imports_seconds: float) -> int:
    """Run the job."""
    encode(config, imports_seconds=imports_seconds)
    return 0


def main() -> int:
    """Entry point."""
    return run(EncodeConfig, encode_corpus)


if __name__ == "__main__":
    sys.exit(main())

"""Merge stores: finished latent stores, or clip stores, that were made alike, joined into one."""

import sys

from jobs.command import run
from pipeline.runs.merge import MergeConfig, merge
from pipeline.runs.record import StartClock


def merge_stores(config: MergeConfig, clock: StartClock) -> int:
    """Run the job."""
    merge(config, clock=clock)
    return 0


def main() -> int:
    """Entry point."""
    return run(MergeConfig, merge_stores)


if __name__ == "__main__":
    sys.exit(main())

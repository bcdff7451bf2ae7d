"""Retry rejects: try once more what a clip store rejected for a reason that may have passed, and merge it."""

import sys

from jobs.command import run
from pipeline.runs.record import StartClock
from pipeline.runs.retry import RetryConfig, retry_rejects


def retry(config: RetryConfig, clock: StartClock) -> int:
    """Run the job."""
    retry_rejects(config, clock=clock)
    return 0


def main() -> int:
    """Entry point."""
    return run(RetryConfig, retry)


if __name__ == "__main__":
    sys.exit(main())

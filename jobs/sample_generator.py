"""Sample a generator: clips of asked classes, pictures of them, and scores against real clips."""

import sys

from jobs.command import run
from pipeline.runs.record import StartClock
from pipeline.runs.sample import SampleConfig, sample


def sample_generator(config: SampleConfig, clock: StartClock) -> int:
    """Run the job and print the scores."""
    result = sample(config, clock=clock)
    for name, value in result.scores.items():
        sys.stdout.write(f"{name:28} {value:.6g}\n")
    sys.stdout.write(f"picture                      {result.picture}\n")
    return 0


def main() -> int:
    """Entry point."""
    return run(SampleConfig, sample_generator)


if __name__ == "__main__":
    sys.exit(main())

"""Explain staleness: what differs between what made a latent store and what is given now. Exit code 1 where it does."""

import sys

from jobs.command import EXIT_FAILED, run
from pipeline.runs.record import StartClock
from pipeline.runs.stale import StaleConfig, why_stale


def explain_staleness(config: StaleConfig, _clock: StartClock) -> int:
    """Run the job and print what was found."""
    lines = why_stale(config)
    sys.stdout.write("".join(f"{line}\n" for line in lines) or f"{config.store}: nothing differs\n")
    return EXIT_FAILED if lines else 0


def main() -> int:
    """Entry point."""
    return run(StaleConfig, explain_staleness)


if __name__ == "__main__":
    sys.exit(main())

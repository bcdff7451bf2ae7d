"""Show a store: one HTML page with what it holds, what it lost, and where it comes from."""

import sys

from jobs.command import run
from pipeline.runs.record import StartClock
from pipeline.runs.show import ShowConfig, show


def show_store(config: ShowConfig, _clock: StartClock) -> int:
    """Run the job and print where the page is."""
    sys.stdout.write(f"{show(config)}\n")
    return 0


def main() -> int:
    """Entry point."""
    return run(ShowConfig, show_store)


if __name__ == "__main__":
    sys.exit(main())

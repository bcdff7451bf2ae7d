"""Verify a store: every planned clip accounted for, every byte as it was committed. Exit code 1 where not."""

import sys

from jobs.command import EXIT_FAILED, run
from pipeline.runs.record import StartClock
from pipeline.runs.verify import VerifyConfig, verify


def verify_store(config: VerifyConfig, _clock: StartClock) -> int:
    """Run the job and print what was found."""
    report = verify(config)
    for problem in report.problems:
        sys.stdout.write(f"PROBLEM {problem}\n")
    sys.stdout.write(
        f"{config.store}: {report.planned} planned = {report.stored} stored + {report.filtered} filtered + "
        f"{report.rejected} rejected; {report.shards} shards, {len(report.problems)} problems\n"
    )
    if report.dropped:
        sys.stdout.write(
            f"{report.dropped} shards dropped: start the job that made the store, and it makes them again\n"
        )
    return EXIT_FAILED if report.problems else 0


def main() -> int:
    """Entry point."""
    return run(VerifyConfig, verify_store)


if __name__ == "__main__":
    sys.exit(main())

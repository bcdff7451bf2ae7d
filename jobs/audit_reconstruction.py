"""Audit reconstructions: one record that says how well tokenizers give clips back, and one page to look at."""

import sys

from jobs.command import EXIT_FAILED, run
from pipeline.runs.audit import audit
from pipeline.runs.audit_config import AuditConfig
from pipeline.runs.record import StartClock


def audit_reconstruction(config: AuditConfig, clock: StartClock) -> int:
    """Run the job, print the numbers, and fail where a condition says so."""
    result = audit(config, clock=clock)
    width = max(len(candidate.name) for candidate in result.candidates)
    for candidate in result.candidates:
        values = "  ".join(f"{name} {value:.6g}" for name, value in candidate.values.items())
        sys.stdout.write(f"{candidate.name:{width}}  {candidate.summary.stored} clips  {values}\n")
    for reason in dict.fromkeys(
        f"{name}: {reason}" for candidate in result.candidates for name, reason in candidate.skipped.items()
    ):
        sys.stdout.write(f"skipped   {reason}\n")
    sys.stdout.write(f"protocol  {result.protocol_id}\nrecord    {result.record}\nreport    {result.report}\n")
    for failure in result.failures:
        sys.stderr.write(f"failed: {failure}\n")
    return EXIT_FAILED if result.failures else 0


def main() -> int:
    """Entry point."""
    return run(AuditConfig, audit_reconstruction)


if __name__ == "__main__":
    sys.exit(main())

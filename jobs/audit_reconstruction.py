"""Audit reconstructions: one record that says how well a tokenizer gives clips back, and one page to look at."""

import sys

from jobs.command import run
from pipeline.runs.audit import AuditConfig, audit
from pipeline.runs.record import StartClock


def audit_reconstruction(config: AuditConfig, clock: StartClock) -> int:
    """Run the job and print the means."""
    result = audit(config, clock=clock)
    for name, value in result.means.items():
        sys.stdout.write(f"{name:8} {value:.6g}\n")
    sys.stdout.write(f"report   {result.report}\n")
    return 0


def main() -> int:
    """Entry point."""
    return run(AuditConfig, audit_reconstruction)


if __name__ == "__main__":
    sys.exit(main())

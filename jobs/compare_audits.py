"""Compare two audits: their numbers side by side, or what keeps them from being compared."""

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from jobs.command import EXIT_FAILED, run
from pipeline.runs.audit_compare import Comparison, compare
from pipeline.runs.record import StartClock
from pipeline.store.documents import write_json
from pipeline.store.files import Folder


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareConfig:
    """Compare two audits; fails where they did not measure the same thing in the same way."""

    first: Annotated[str, tyro.conf.Positional]
    """Folder of an audit, or its audit.json: path or URL."""
    second: Annotated[str, tyro.conf.Positional]
    """Of the other."""
    output: str = ""
    """Folder for the comparison as compare.json: path or URL; empty: it is only printed."""


def compare_audits(config: CompareConfig, _clock: StartClock) -> int:
    """Compare, and print."""
    found = compare(config.first, config.second)
    if config.output:
        write_json(Folder(config.output), "compare.json", found.to_json())
    sys.stdout.write(table(found))
    return EXIT_FAILED if found.differences else 0


def table(found: Comparison) -> str:
    """The comparison as text."""
    if found.differences:
        return "The audits do not compare; what differs, first and now:\n" + "".join(
            f"  {line}\n" for line in found.differences
        )
    width = max((len(row.candidate) for row in found.rows), default=0)
    names = max((len(row.metric) for row in found.rows), default=0)
    lines = [f"protocol {found.protocol_ids[0]}"]
    lines += [
        f"{row.candidate:{width}}  {row.metric:{names}}  {row.first:12.6g}  {row.second:12.6g}  {row.change:+12.4g}"
        for row in found.rows
    ]
    lines += [f"{name}: in one audit alone" for name in found.unmatched]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Entry point."""
    return run(CompareConfig, compare_audits)


if __name__ == "__main__":
    sys.exit(main())

"""What every benchmark shares: rows of ratios, a table, and a JSON file with the command that made it."""

import argparse
import json
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One comparison: medians over runs."""

    name: str
    ours: float
    other: float
    """The peer, or the limit; what it is stands in the benchmark's docstring."""
    ratio: float
    """ours / other."""
    unit: str
    runs: int
    spread: float
    """(max - min) / median of ours."""

    @classmethod
    def of(cls, name: str, ours: Sequence[float], other: Sequence[float], unit: str) -> "Row":
        """A row of the medians of repeated measurements."""
        middle, beside = statistics.median(ours), statistics.median(other)
        return cls(
            name=name,
            ours=middle,
            other=beside,
            ratio=middle / beside if beside else 0.0,
            unit=unit,
            runs=len(ours),
            spread=(max(ours) - min(ours)) / middle if middle else 0.0,
        )


def main(measure: Callable[[int], list[Row]], *, description: str, runs: int) -> None:
    """Run a benchmark from the command line: print its table, and write its rows where `--json PATH` says."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--runs", type=int, default=runs, help="repetitions (default: %(default)s)")
    arguments = parser.parse_args()
    rows = measure(arguments.runs)
    sys.stdout.write(table(rows))
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "command": f"python benchmarks/{Path(sys.argv[0]).name} --runs {arguments.runs}",
            "machine": machine(),
            "rows": [asdict(row) for row in rows],
        }
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


def table(rows: Sequence[Row]) -> str:
    """Rows as aligned text."""
    width = max(len(row.name) for row in rows)
    lines = [f"{'':{width}}  {'ours':>12}  {'other':>12}  {'ratio':>7}  {'runs':>4}  {'spread':>6}  unit"]
    lines += [
        f"{row.name:{width}}  {row.ours:12.3f}  {row.other:12.3f}  {row.ratio:7.3f}  {row.runs:4d}  "
        f"{row.spread:6.2f}  {row.unit}"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def machine() -> dict[str, object]:
    """What it was measured on."""
    return {
        "cpu_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("ray", "torch", "pyarrow", "numpy", "av", "pillow")},
    }

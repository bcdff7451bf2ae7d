"""Memory and time of listing a corpus as a plan does: streamed, repeats found, written to row groups of 4096.

Each listing has a process of its own. Peak resident memory: of 10^6 media beside 10^5, and of 10^5 beside the imports.
Seconds: of 10^6 beside ten times those of 10^5. Ratios near 1 say that memory is bounded and time linear.
"""

import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.media.listing import MediaListing
from pipeline.media.repeats import Repeats
from schemas.manifest import MEDIA_SCHEMA

if TYPE_CHECKING:
    from harness import Row

FEW, MANY = 100_000, 1_000_000
NUM_FOLDERS = 1000
ROW_GROUP_ROWS = 4096
CHILD = "--list"
KINDS = ("jsonl list", "Parquet list", "files in 1000 folders")


def rows(count: int) -> Iterator[dict[str, object]]:
    """Rows of a list: a URL, a caption, a label and two columns that pass through."""
    for index in range(count):
        yield {
            "url": f"https://host{index % 97}.example/photos/{index:09d}.jpg",
            "caption": f"a photograph of number {index}, seen from far away",
            "label": index % 1000,
            "width": 640 + index % 640,
            "similarity": index % 1000 / 1000,
        }


def make(kind: str, count: int, folder: Path) -> Path:
    """The input of one listing."""
    if kind == "jsonl list":
        path = folder / f"{count}.jsonl"
        with path.open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows(count))
    elif kind == "Parquet list":
        path = folder / f"{count}.parquet"
        everything = rows(count)
        first = pa.Table.from_pylist(list(itertools.islice(everything, 10_000)))
        with pq.ParquetWriter(path, first.schema) as writer:
            writer.write_table(first)
            while part := list(itertools.islice(everything, 10_000)):
                writer.write_table(pa.Table.from_pylist(part, schema=first.schema))
    else:
        path = folder / f"{count}-files"
        for index in range(NUM_FOLDERS):
            (path / f"{index:04d}").mkdir(parents=True)
            for number in range(count // NUM_FOLDERS):
                (path / f"{index:04d}" / f"{number:06d}.jpg").touch()
    return path


def list_once(source: str) -> dict[str, float]:
    """List an input in this process; what it took."""
    before = _peak_mib()
    started = time.perf_counter()
    count = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        Repeats() as repeats,
        pq.ParquetWriter(Path(folder) / "media.parquet", MEDIA_SCHEMA) as writer,
    ):
        media = iter(MediaListing([source]))
        while group := [entry.to_row() for entry in itertools.islice(media, ROW_GROUP_ROWS)]:
            writer.write_table(pa.Table.from_pylist(group, schema=MEDIA_SCHEMA))
            for row in group:
                repeats.add(str(row["uri"]).encode())
            count += len(group)
        assert not len(repeats.repeated())
    return {"count": count, "seconds": time.perf_counter() - started, "before": before, "peak": _peak_mib()}


def _peak_mib() -> float:
    """Peak resident memory of this process; `getrusage` would count the parent's, which holds torch."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def measure(runs: int) -> "list[Row]":
    """Three rows a kind of input."""
    from harness import Row

    found = []
    for kind in KINDS:
        taken: dict[int, list[dict[str, float]]] = {FEW: [], MANY: []}
        with tempfile.TemporaryDirectory() as folder:
            for count, results in taken.items():
                path = make(kind, count, Path(folder))
                for _ in range(runs):
                    command = [sys.executable, __file__, CHILD, str(path)]
                    child = subprocess.run(command, check=True, capture_output=True, text=True)
                    results.append(json.loads(child.stdout))
                    assert results[-1]["count"] == count
        few, many = taken[FEW], taken[MANY]
        peaks, fewer = [entry["peak"] for entry in many], [entry["peak"] for entry in few]
        found += [
            Row.of(f"{kind}: peak of 10^6 media, beside 10^5", peaks, fewer, "MiB"),
            Row.of(f"{kind}: peak of 10^5 media, beside the imports", fewer, [entry["before"] for entry in few], "MiB"),
            Row.of(
                f"{kind}: 10^6 media, beside ten times 10^5",
                [entry["seconds"] for entry in many],
                [10 * entry["seconds"] for entry in few],
                "s",
            ),
        ]
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        sys.stdout.write(json.dumps(list_once(sys.argv[2])))
    else:
        # Here, and not above: it brings torch, which a listing has no part in.
        from harness import main

        main(measure, description=__doc__, runs=1)

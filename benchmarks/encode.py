"""`vitok encode` beside the bare model, beside what one would write by hand, and beside a file copy.

One clip store of photographs, 256 x 256, JPEG 98, tubelets of 1x16; encoders with random weights, batches of 8, two
workers of one thread. S is the paper's (S-N/16, bfloat16 by autocast); N is 192 wide and 2 blocks deep (N-N/16,
float32), where what is not the model shows.

bare loop: two plain processes that do the forward passes over clips already decoded, the clock stopped around them.
peers, with the encoder N: Ray Data (read_parquet, map_batches, write_parquet, CheckpointConfig), a DataLoader loop
writing MDS, litdata.optimize, one npy per item. Programs run as commands, by turns, on the whole corpus and on a
quarter of it; "all cores" is of the difference, which starts cancel out of. What each stored is compared before any
speed: same keys, latents as near as the other torch of a peer's environment allows.

kills: each program is killed (its whole process group) when half of the corpus is encoded, and started again. Of
the whole corpus, redone: clips encoded more than once; lost: not stored in the end; twice: stored more than once. Of
ours redone is an upper bound, all clips of the shards begun and not committed.

write: latents in memory through ParquetLatentWriter and TarLatentWriter to committed shards, beside a copy of the same
bytes (written, synced and renamed as well). first shard: seconds from the start of the command to its first commit.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from encoders.shared import read_images
from encoders.writing import copy_speed, write_speed
from harness import Row, machine, table
from make_peers import interpreter
from numpy.typing import NDArray
from preparers.corpus import make_photographs

from vitok.config import AutoEncoderConfig
from vitok.latents.store import LatentStore
from vitok.model.autoencoder import AutoEncoder
from vitok.model.checkpoint import save_checkpoint

ROOT = Path(__file__).parents[1]
ENCODERS = ROOT / "benchmarks" / "encoders"
BATCH_SIZE, WORKERS, RESOLUTION = 8, 2, 256
CLIP_SHARD_SIZE, SHARD_SIZE = 32, 64
MODELS = {"S": ("S-N/16", "bfloat16"), "N": ("N-N/16", "float32")}
NEAR = 0.02
"""Largest difference of a latent: float16 of unit size, and another torch."""
PEERS = {"Ray Data": ("", "ray_parquet"), "MDS": ("mds", "mds"), "litdata": ("litdata", "litdata_optimize")}
PEERS |= {"one file per item": ("", "files")}
"""Environment ("" is ours) and program."""
QUICK = {"runs": 1, "clips": 128, "tiny_clips": 384}
LOOK_S = 0.02
PATIENCE_S = 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """A clip store, and one of a quarter of its clips."""

    whole: Path
    quarter: Path
    whole_count: int

    @property
    def more(self) -> int:
        """Clips that the whole has more."""
        return self.whole_count - self.whole_count // 4


Command = Callable[[Path, Path], Sequence[str | Path]]
"""From a clip store and an output folder to a command."""


def measure(runs: int, clips: int, tiny_clips: int, only: Sequence[str]) -> list[Row]:
    """Make the corpora and models, then every comparison that was asked for."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizers = {size: _tokenizer(folder / size, variant) for size, (variant, _) in MODELS.items()}
        corpora = {"S": _corpus(folder / "s", clips), "N": _corpus(folder / "n", tiny_clips)}
        for size in MODELS:
            if f"bare-{size}" in only:
                rows += _beside_bare(size, corpora[size], tokenizers[size], folder / "output", runs)
        if "peers" in only:
            rows += _beside_peers(corpora["N"], tokenizers["N"], folder / "output", runs)
        if "kills" in only:
            rows += _kills(corpora["N"], tokenizers["N"], folder / "output")
        if "write" in only:
            rows += _writing(folder, runs)
        if "start" in only:
            rows += _first_shard(corpora["N"], tokenizers["N"], folder / "output", runs)
    return rows


def _tokenizer(folder: Path, variant: str) -> Path:
    torch.manual_seed(0)
    save_checkpoint(str(folder), AutoEncoder(AutoEncoderConfig.from_name(variant, latent_channels=16)))
    return folder


def _corpus(folder: Path, clips: int) -> Corpus:
    for part, count in (("whole", clips), ("quarter", clips // 4)):
        make_photographs(folder / "photos" / part, count)
        flags = ("--input", folder / "photos" / part, "--output", folder / part, "--resolution", str(RESOLUTION))
        shape = ("--num-frames", "1", "--tubelet", "1x16", "--shard-size", str(CLIP_SHARD_SIZE))
        _run([sys.executable, ROOT / "jobs" / "prepare_corpus.py", *flags, *shape], _environment())
        _write_tables(folder / part)
    return Corpus(whole=folder / "whole", quarter=folder / "quarter", whole_count=clips)


def _write_tables(clips: Path) -> None:
    """The clips once more, a table of key and JPEG for each tar: what plain Ray Data reads."""
    folder = clips.with_name(f"{clips.name}-tables")
    folder.mkdir()
    for path in sorted(clips.glob("grid=*/*.tar")):
        keys, pictures = zip(*read_images([str(path)]), strict=True)
        pq.write_table(pa.table({"key": keys, "jpg": pictures}), folder / f"{path.stem}.parquet")


def _environment() -> dict[str, str]:
    """One thread a worker, for all; no program is to look for its updates."""
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}


def _ours(tokenizer: Path, precision: str, *, workers: int = WORKERS, threads: int = 1) -> Command:
    shape = ("--batch-size", str(BATCH_SIZE), "--shard-size", str(SHARD_SIZE), "--precision", precision)
    pool = ("--num-workers", str(workers), "--threads-per-worker", str(threads))
    command = (sys.executable, ROOT / "jobs" / "encode_corpus.py", "--tokenizer", tokenizer, *shape, *pool)
    return lambda clips, output: (*command, "--shards", clips, "--output", output)


def _peer(name: str, tokenizer: Path, precision: str) -> Command:
    environment, program = PEERS[name]
    python = interpreter(environment) if environment else Path(sys.executable)
    last = (precision, str(BATCH_SIZE), str(WORKERS))
    return lambda clips, output: (python, ENCODERS / f"{program}.py", clips, tokenizer, output, *last)


def _clear(output: Path) -> None:
    for path in output.parent.glob(f"{output.name}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _seconds(command: Command, clips: Path, output: Path) -> float:
    """Wall seconds of a command on an output folder that does not exist yet."""
    _clear(output)
    started = time.perf_counter()
    _run(command(clips, output), _environment())
    return time.perf_counter() - started


def _run(command: Sequence[str | Path], environment: Mapping[str, str]) -> str:
    """What a command prints.

    Raises:
        RuntimeError: It failed; says what it printed last.
    """
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}\n{done.stderr[-3000:]}")
    return done.stdout


def _speed(command: Command, corpus: Corpus, output: Path) -> float:
    """Clips a second of what more clips cost; the whole corpus's output is left in the folder."""
    quarter = _seconds(command, corpus.quarter, output)
    return corpus.more / (_seconds(command, corpus.whole, output) - quarter)


def _bare(corpus: Corpus, tokenizer: Path, precision: str, *, workers: int = WORKERS, threads: int = 1) -> float:
    flags = (precision, str(BATCH_SIZE), str(workers), str(threads))
    command = [sys.executable, ENCODERS / "bare.py", corpus.whole, tokenizer, *flags]
    seconds, clips = _run(command, _environment()).split()
    return int(clips) / float(seconds)


def _beside_bare(size: str, corpus: Corpus, tokenizer: Path, output: Path, runs: int) -> list[Row]:
    """The job and the bare loop with two workers, with one worker, and with one of two threads."""
    precision = MODELS[size][1]
    shapes = {"two workers": (2, 1), "one worker": (1, 1), "one worker, two threads": (1, 2)}
    ours: dict[str, list[float]] = {name: [] for name in shapes}
    bare: dict[str, list[float]] = {name: [] for name in shapes}
    profile: dict[str, list[float]] = {}
    for _ in range(runs):
        for name, (workers, threads) in shapes.items():
            command = _ours(tokenizer, precision, workers=workers, threads=threads)
            ours[name].append(_speed(command, corpus, output))
            if name == "two workers":
                for step, seconds in _record(output)["worker_seconds"].items():
                    profile.setdefault(step, []).append(seconds)
            bare[name].append(_bare(corpus, tokenizer, precision, workers=workers, threads=threads))
    title = f"{size} encoder, {precision}"
    rows = [Row.of(f"{title} / {name}, bare loop", ours[name], bare[name], "clips/s") for name in shapes]
    rows.append(Row.of(f"{title} / two workers, one worker", ours["two workers"], ours["one worker"], "clips/s"))
    rows.append(Row.of(f"{title} / bare: two processes, one", bare["two workers"], bare["one worker"], "clips/s"))
    total = [sum(values) for values in zip(*profile.values(), strict=True)]
    return rows + [Row.of(f"{title} / workers: {step}", profile[step], total, "s") for step in profile]


def _record(store: Path) -> dict[str, dict[str, float]]:
    (path,) = store.glob("runs/*/record.json")
    record: dict[str, dict[str, float]] = json.loads(path.read_bytes())
    return record


def _beside_peers(corpus: Corpus, tokenizer: Path, output: Path, runs: int) -> list[Row]:
    precision = MODELS["N"][1]
    mine = _ours(tokenizer, precision)
    _seconds(mine, corpus.quarter, output)
    expected, rows = _stored(output), []
    for name in PEERS:
        _seconds(_peer(name, tokenizer, precision), corpus.quarter, output)
        keys, latents = _dumped(name, output)
        if sorted(keys) != sorted(expected):
            raise ValueError(f"{name}: stored {len(keys)} clips that are not our {len(expected)}")
        apart = max(float(np.abs(latents[row] - expected[key]).max()) for row, key in enumerate(keys))
        if apart > NEAR:
            raise ValueError(f"{name}: latents differ by {apart}, expected at most {NEAR}: not the same model")
        rows.append(Row.of(f"peers / largest difference of latents, {name}", [apart], [NEAR], "latent"))
    ours: list[float] = []
    theirs: dict[str, list[float]] = {name: [] for name in PEERS}
    for _ in range(runs):
        ours.append(_speed(mine, corpus, output))
        for name, speeds in theirs.items():
            speeds.append(_speed(_peer(name, tokenizer, precision), corpus, output))
    return rows + [Row.of(f"peers / all cores, {name}", ours, speeds, "clips/s") for name, speeds in theirs.items()]


def _stored(output: Path) -> dict[str, NDArray[np.float32]]:
    """Latents of one of our stores by key."""
    return {
        str(key): mean
        for batch in LatentStore(str(output)).batches(256)
        for key, mean in zip(batch.columns["key"], batch.latents["mean"].float().numpy(), strict=True)
    }


def _dumped(name: str, output: Path) -> tuple[list[str], NDArray[np.float32]]:
    """Keys and latents that a peer stored, as it reads them itself."""
    environment, program = PEERS[name]
    python = interpreter(environment) if environment else Path(sys.executable)
    path = output.with_suffix(".npz")
    command = [python, ENCODERS / f"{program}.py", "dump", output, path]
    _run(command, _environment())
    with np.load(path, allow_pickle=False) as dumped:
        return dumped["keys"].tolist(), dumped["latents"].astype(np.float32)


def _kills(corpus: Corpus, tokenizer: Path, output: Path) -> list[Row]:
    """Each program killed once in the middle of the corpus."""
    precision, total = MODELS["N"][1], corpus.whole_count
    _clear(output)
    redone = 0
    with _started(_ours(tokenizer, precision)(corpus.whole, output), _environment()) as process:
        _wait(process, lambda: _committed(output) >= total // 2)
    begun = {path.name[path.name.index("shard-") :][:14] for path in output.glob(".tmp/*shard-*")}
    redone = len(begun) * SHARD_SIZE
    _run(_ours(tokenizer, precision)(corpus.whole, output), _environment())
    found = Counter(str(key) for batch in LatentStore(str(output)).batches(256) for key in batch.columns["key"])
    results = {"ours": (redone, found)}
    for name in PEERS:
        _clear(output)
        log = output.with_suffix(".log")
        environment = _environment() | {"ENCODED_LOG": str(log)}
        command = _peer(name, tokenizer, precision)(corpus.whole, output)
        with _started(command, environment) as process:
            _wait(process, lambda: log.exists() and log.read_text().count("\n") >= total // 2)  # noqa: B023
        _run(command, environment)
        encoded = Counter(log.read_text().split())
        results[name] = (sum(encoded.values()) - len(encoded), Counter(_dumped(name, output)[0]))
    rows = []
    for name, (again, keys) in results.items():
        twice = sum(count - 1 for count in keys.values())
        for what, value in (("redone", again), ("lost", total - len(keys)), ("twice", twice)):
            rows.append(Row.of(f"kills / {what}, {name}", [value], [total], "clips"))
    return rows


def _committed(output: Path) -> int:
    return SHARD_SIZE * sum(1 for _ in output.glob("ledger/*/*.json"))


@contextmanager
def _started(command: Sequence[str | Path], environment: Mapping[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    """A command in a group of its own, all of which is killed at the end."""
    process = subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(5)  # workers of Ray and of loaders notice that their parent is gone


def _wait(process: "subprocess.Popen[bytes]", reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not reached():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args} ended, or stood still, before half of the corpus was encoded")
        time.sleep(LOOK_S)


def _writing(folder: Path, runs: int) -> list[Row]:
    """Bytes a second into finished shards beside a copy of them."""
    rows = []
    for store_format in ("parquet", "webdataset"):
        path = folder / f"copied-{store_format}"
        ours, copies = [], []
        for _ in range(runs):
            ours.append(write_speed(folder / f"written-{store_format}", store_format, keep=path))
            copies.append(copy_speed(path, folder / "copy"))
        rows.append(Row.of(f"write / {store_format}, file copy", ours, copies, "MB/s"))
    return rows


def _first_shard(corpus: Corpus, tokenizer: Path, output: Path, runs: int) -> list[Row]:
    """From the start of the command to its first commit, and the parts of it that its record tells."""
    totals: list[float] = []
    parts: dict[str, list[float]] = {}
    for _ in range(runs):
        _clear(output)
        started = time.time()
        command = _ours(tokenizer, MODELS["N"][1])(corpus.quarter, output)
        _run(command, _environment())
        first = min(path.stat().st_mtime for path in output.glob("ledger/*/*.json")) - started
        record = _record(output)
        known = {name: record["seconds"][name] for name in ("imports", "open", "ray", "plan")}
        known["weights"] = record["worker_seconds"]["weights"] / WORKERS
        shards = len(list(output.glob("ledger/*/*.json")))
        steps = ("decode", "encode", "write", "commit")
        known["work on one shard"] = sum(record["worker_seconds"][name] for name in steps) / shards
        known["start of the interpreter, Ray Data and workers"] = first - sum(known.values())
        totals.append(first)
        for name, seconds in known.items():
            parts.setdefault(name, []).append(seconds)
    rows = [Row.of("first shard / whole", totals, totals, "s")]
    middle = statistics.median(totals)
    return rows + [Row.of(f"first shard / {name}", seconds, [middle], "s") for name, seconds in parts.items()]


def main() -> None:
    """Parse the command line, print the table, write the rows."""
    choices = [*(f"bare-{size}" for size in MODELS), "peers", "kills", "write", "start"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--runs", type=int, default=5, help="repetitions (default: %(default)s)")
    parser.add_argument("--clips", type=int, default=256, help="for the encoder S (default: %(default)s)")
    parser.add_argument("--tiny-clips", type=int, default=4096, help="for the encoder N (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=choices, default=choices, help="comparisons (default: all)")
    parser.add_argument("--quick", action="store_true", help=f"see that it runs, speeds mean nothing: {QUICK}")
    arguments = vars(parser.parse_args())
    path, quick = arguments.pop("json"), arguments.pop("quick")
    arguments |= QUICK if quick else {}
    unit = 4 * CLIP_SHARD_SIZE
    if arguments["clips"] % unit or arguments["tiny_clips"] % unit or not arguments["clips"]:
        parser.error(f"--clips, --tiny-clips: got {arguments}, expected multiples of {unit}")
    rows = measure(**arguments)
    sys.stdout.write(table(rows))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        only = " ".join(arguments.pop("only"))
        flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in arguments.items())
        document = {
            "command": f"python benchmarks/encode.py {flags} --only {only}",
            "machine": machine(),
            "rows": [asdict(row) for row in rows],
        }
        path.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""What an audit costs beside what it audits, and how that grows.

stage: clips a second of one process of one thread, photographs of 256 x 256 through an S-S/16 with random weights in
batches of 8. ours reads the shard, encodes, decodes, takes PSNR, SSIM and the latents' sums and commits; other encodes
and decodes clips that are in memory. By turns.
fold, memory: MB at the peak of the process that folds a candidate's rows (intervals, histograms, slices, ranking, and
the moments of FVD's features) over 40,000 clips, and over 5,000. Each in a process of its own, imports included.
fold, 10^4 states: seconds to merge the sums of 10^4 shards of one clip (means, content, moments of 16 latent channels),
and of 10^3.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from harness import Row, main
from preparers.corpus import make_photographs

from pipeline.runs.audit_fold import feature_moments, fold_rows
from pipeline.runs.audit_sums import AuditSums
from pipeline.runs.audit_values import histogram_edges
from pipeline.stages.clip_source import StoredClips
from pipeline.stages.latent_health import LatentSums
from pipeline.stages.reconstruct import ReconstructShard
from pipeline.stages.reconstruct_latents import TokenizerReconstructor
from pipeline.stages.tokenizer import Inference, Tokenizer
from pipeline.store.files import Folder
from pipeline.store.index import close_store, open_store
from pipeline.store.ledger import ShardRecord, commit_shard
from pipeline.store.plan import Plan, PlanCounts
from pipeline.store.planned_shards import PlannedShard
from pipeline.store.tables import write_table
from schemas.audit import audit_schema
from schemas.metadata import AUDIT_FORMAT, CLIP_STORE_FORMAT
from vitok.config import AutoEncoderConfig
from vitok.model.autoencoder import AutoEncoder
from vitok.model.checkpoint import save_checkpoint

ROOT = Path(__file__).parents[1]
METRICS = ("psnr", "ssim")
CLIPS, BATCH_SIZE, CHANNELS = 32, 8, 16
FEW, MANY, SHARD_ROWS = 5_000, 40_000, 1_000
FEATURES, WIDTH = "i3d", 400


def measure(runs: int) -> list[Row]:
    """All rows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return [_stage(folder, runs), _memory(folder, runs), _merging(runs)]


def _stage(folder: Path, runs: int) -> Row:
    make_photographs(folder / "photographs", CLIPS)
    flags = ("--resolution", "256", "--num-frames", "1", "--tubelet", "1x16", "--shard-size", str(CLIPS))
    places = ("--input", folder / "photographs", "--output", folder / "clips")
    subprocess.run([sys.executable, ROOT / "jobs" / "prepare_corpus.py", *places, *flags], check=True)
    torch.manual_seed(0)
    model = AutoEncoder(AutoEncoderConfig.from_name("S-S/16", latent_channels=CHANNELS))
    save_checkpoint(str(folder / "tokenizer"), model)
    inference = Inference(batch_size=BATCH_SIZE)
    clips = open_store(Folder(str(folder / "clips")), format_name=CLIP_STORE_FORMAT)
    (row,) = clips.rows
    assert row.path is not None
    shard = PlannedShard(index=0, bucket=row.bucket, num_clips=row.stored, sources=(row.path,))
    stage = ReconstructShard(
        source=clips.folder,
        output=Folder(str(folder / "audit")),
        make_reconstructor=partial(TokenizerReconstructor, str(folder / "tokenizer"), inference),
        inference=inference,
        passed={},
        metrics=METRICS,
    )
    tokenizer = Tokenizer(str(folder / "tokenizer"), inference)
    held = list(StoredClips(clips.folder)(shard))

    def bare() -> None:
        for start in range(0, len(held), BATCH_SIZE):
            batch = held[start : start + BATCH_SIZE]
            tokenizer.decode(tokenizer.encode(batch).mode(), num_frames=1)

    for first in (bare, partial(stage, shard)):
        first()  # chooses kernels and takes memory
    ours, other = [], []
    for _ in range(runs):
        other.append(row.stored / _seconds(bare))
        ours.append(row.stored / _seconds(partial(stage, shard)))
    return Row.of("stage", ours, other, "clips/s")


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _memory(folder: Path, runs: int) -> Row:
    peaks: dict[int, list[float]] = {}
    for clips in (FEW, MANY):
        _write_rows(Folder(str(folder / f"rows-{clips}")), clips)
        for _ in range(runs):
            command = [sys.executable, Path(__file__), "--fold", folder / f"rows-{clips}"]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            peaks.setdefault(clips, []).append(float(done.stdout))
    return Row.of("fold, memory", peaks[MANY], peaks[FEW], "MB")


def _write_rows(folder: Folder, clips: int) -> None:
    """A finished audit of made-up numbers."""
    generator = np.random.default_rng(0)
    schema = audit_schema(passed={}, metrics=METRICS, features={FEATURES: (1, WIDTH)})
    shards = [
        PlannedShard(index=index, bucket="grid=1x16x16", num_clips=SHARD_ROWS) for index in range(clips // SHARD_ROWS)
    ]
    records = []
    for shard in shards:
        values = generator.uniform(0.2, 0.9, (SHARD_ROWS, len(METRICS)))
        features = generator.normal(size=(SHARD_ROWS, WIDTH)).astype(np.float32)
        names = [f"clip-{shard.index}-{row}" for row in range(SHARD_ROWS)]
        columns: dict[str, object] = {
            "key": names,
            "media_uri": [f"/photographs/{name}.png" for name in names],
            "media_sha256": ["0" * 64] * SHARD_ROWS,
            "color": ["srgb"] * SHARD_ROWS,
            "label": [str(row % 100) for row in range(SHARD_ROWS)],
            FEATURES: [vector.tobytes() for vector in features],
            **dict(zip(METRICS, values.T, strict=True)),
        }
        zeros = np.zeros(SHARD_ROWS)
        arrays = [
            pa.array(columns.get(field.name, [None] * SHARD_ROWS if field.nullable else zeros), field.type)
            if field.type != pa.bool_()
            else pa.array(zeros > 0)
            for field in schema
        ]
        file = write_table(folder, shard.name + ".parquet", pa.Table.from_arrays(arrays, schema=schema))
        sums = _sums({name: values[:, place] for place, name in enumerate(METRICS)}, generator)
        records.append(commit_shard(folder, shard, file=file, stored=SHARD_ROWS, outcomes=[], sums=sums))
    plan = Plan.save(folder, job="audit", identity={}, counts=PlanCounts(media=0, clips=clips), shards=shards)
    close_store(folder, plan, records, format_name=AUDIT_FORMAT, details={}, sums=AuditSums())


def _sums(values: dict[str, np.ndarray], generator: np.random.Generator) -> dict[str, object]:
    """Of a shard's record."""
    return {
        "content": f"{1:064x}",
        "size_bytes": 1,
        "metrics": {
            name: {"clips": len(part), "sum": part.sum(), "min": part.min(), "max": part.max()}
            for name, part in values.items()
        },
        "latents": LatentSums.of(generator.normal(size=(256, CHANNELS)).astype(np.float32), None).to_json(),
    }


def _fold(folder: str) -> float:
    """Fold a store; the process's peak in MB."""
    store = open_store(Folder(folder), format_name=AUDIT_FORMAT)
    edges = histogram_edges([store])
    fold_rows(store, METRICS, edges=edges, slices=("label",), resamples=1000, seed=0, keep=200)
    feature_moments(store, FEATURES)
    # Not getrusage's maximum, which begins at that of the process which started this one.
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1000


def _merging(runs: int) -> Row:
    generator = np.random.default_rng(0)
    sums = _sums({name: generator.uniform(size=1) for name in METRICS}, generator)
    states = [
        ShardRecord(
            index=index,
            bucket="grid=1x16x16",
            planned=1,
            stored=1,
            filtered=0,
            rejected=0,
            reasons={},
            file=None,
            outcomes=None,
            sums=sums,
        )
        for index in range(10_000)
    ]

    def merge(count: int) -> None:
        merged = AuditSums()
        for state in states[:count]:
            merged.add(state)
        merged.to_json()

    seconds = {count: [_seconds(partial(merge, count)) for _ in range(runs)] for count in (1_000, 10_000)}
    return Row.of("fold, 10^4 states", seconds[10_000], seconds[1_000], "s")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--fold"]:
        sys.stdout.write(f"{_fold(sys.argv[2])}\n")
    else:
        main(measure, description=__doc__, runs=3)

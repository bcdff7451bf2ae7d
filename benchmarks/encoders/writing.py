"""Bytes a second: latents in memory to finished shards through our writers, and a plain copy of those files."""

import os
import shutil
import time
from pathlib import Path

import numpy as np
from readers.corpus import metadata

from pipeline.store.files import Folder
from pipeline.store.latentshard import SUFFIXES, ParquetLatentWriter, StoreFormat, TarLatentWriter
from schemas.latent import latent_schema

SHAPE, DTYPE = (1, 16, 16, 16), "float16"
SHARDS, CLIPS = 4, 8192
"""Of 67 MB each, as a job makes them."""
BLOCK_BYTES = 1 << 20


def write_speed(folder: Path, store_format: StoreFormat, *, keep: Path) -> float:
    """Megabytes a second into committed shards; they are moved to a folder that is not there yet.

    Args:
        folder: Where they are written.
        store_format: Parquet or tars.
        keep: Where they end, for `copy_speed`.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(keep, ignore_errors=True)
    latents = np.random.default_rng(0).standard_normal((512, *SHAPE)).astype(DTYPE)
    clips = [metadata(row) for row in range(CLIPS)]
    store, size_bytes = Folder(str(folder)), 0
    started = time.perf_counter()
    for shard in range(SHARDS):
        with store.stage(f"shard-{shard:08d}{SUFFIXES[store_format]}") as staged:
            writer = (
                TarLatentWriter(staged.stream, passed={}, columns=("mean",), dtype=DTYPE)
                if store_format == "webdataset"
                else ParquetLatentWriter(
                    staged.stream,
                    latent_schema(passed={}, shape=SHAPE, dtype=DTYPE, columns=("mean",)),
                    passed={},
                )
            )
            for row, clip in enumerate(clips):
                writer.write(clip, {"mean": latents[row % len(latents)]})
            writer.close()
            size_bytes += staged.commit().size_bytes
    seconds = time.perf_counter() - started
    folder.rename(keep)
    return size_bytes / 1e6 / seconds


def copy_speed(source: Path, target: Path) -> float:
    """Megabytes a second of a copy of a folder's files, each synced and renamed as a shard is."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    size_bytes = 0
    started = time.perf_counter()
    for path in sorted(source.glob("shard-*")):
        with path.open("rb") as read, (target / f"{path.name}.part").open("wb") as written:
            shutil.copyfileobj(read, written, BLOCK_BYTES)
            written.flush()
            os.fsync(written.fileno())
        (target / f"{path.name}.part").rename(target / path.name)
        size_bytes += path.stat().st_size
    seconds = time.perf_counter() - started
    shutil.rmtree(target)
    return size_bytes / 1e6 / seconds

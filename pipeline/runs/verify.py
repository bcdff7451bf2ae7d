"""Verify a store on the cluster: every shard checked where it is read, problems named."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipeline.runs.cluster import connect
from pipeline.runs.progress import Progress
from pipeline.store.files import Folder
from pipeline.store.index import IndexRow
from pipeline.store.verify import check_shard, check_totals, open_any_store, stray_files

_MAX_BLOCKS = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyConfig:
    """Prove that a clip store, latent store or audit is whole."""

    store: str
    """Folder of the store: path or URL."""
    sample: int = 2
    """Clips of each shard that are decoded; every byte is hashed whatever this is."""

    def __post_init__(self) -> None:
        if self.sample < 0:
            raise ValueError(f"--sample: got {self.sample}, expected 0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyReport:
    """What a store says of itself and what is wrong with it."""

    planned: int
    stored: int
    filtered: int
    rejected: int
    shards: int
    problems: Sequence[str]
    """Empty for a whole store."""


def verify(config: VerifyConfig) -> VerifyReport:
    """Check every shard of a store.

    Raises:
        ValueError: There is no finished store, or its index is damaged.
    """
    folder = Folder(config.store)
    store = open_any_store(folder)
    problems = check_totals(store) + stray_files(store)
    if store.rows:
        connect()
        with Progress("verify", total=len(store.rows), unit="shards") as progress:
            for found in _checked(store.rows, partial(_check_batch, folder, config.sample)):
                problems += found
                progress.advance(1, note=f"{len(problems)} problems")
    counts = store.document["counts"]
    assert isinstance(counts, dict)
    return VerifyReport(**counts, shards=len(store.rows), problems=sorted(problems))


def _checked(
    rows: Sequence[IndexRow], check: Callable[[dict[str, NDArray[np.object_]]], dict[str, NDArray[np.str_]]]
) -> Iterator[list[str]]:
    """Problems of each shard, in any order, through Ray Data."""
    import ray.data

    dataset = ray.data.from_items(
        [{"row": json.dumps(asdict(row))} for row in rows], override_num_blocks=min(len(rows), _MAX_BLOCKS)
    ).map_batches(check, batch_size=1, batch_format="numpy")
    for row in dataset.iter_rows():
        yield json.loads(row["problems"])


def _check_batch(folder: Folder, sample: int, batch: dict[str, NDArray[np.object_]]) -> dict[str, NDArray[np.str_]]:
    (text,) = batch["row"]
    return {"problems": np.array([json.dumps(check_shard(folder, IndexRow(**json.loads(text)), sample=sample))])}

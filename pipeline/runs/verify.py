"""Verify a store on the cluster: every shard checked where it is read, problems named."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipeline.runs.cluster import connect
from pipeline.runs.progress import Progress
from pipeline.store.claim import claim
from pipeline.store.files import Folder
from pipeline.store.index import IndexRow, drop_shards
from pipeline.store.verify import check_shard, check_totals, open_any_store, part_starts, stray_files

_MAX_BLOCKS = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyConfig:
    """Prove that a clip store, latent store or audit is whole."""

    store: str
    """Folder of the store: path or URL."""
    sample: int = 2
    """Clips of each shard that are decoded; every byte is hashed whatever this is."""
    repair: bool = False
    """Drop damaged shards, and the index with them: the job that made the store makes them again when started."""
    break_claim: bool = False
    """With --repair: take over an object-store folder whose run is known to be dead."""

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
    dropped: int = 0
    """Shards that a repair took out of the ledger."""


def verify(config: VerifyConfig) -> VerifyReport:
    """Check every shard of a store.

    Raises:
        ValueError: There is no finished store, or its index is damaged.
        RunRefusedError: A repair is asked for, and a run holds the store.
    """
    folder = Folder(config.store)
    store = open_any_store(folder)
    problems = check_totals(store) + stray_files(store)
    damaged: list[IndexRow] = []
    if store.rows:
        connect()
        with Progress("verify", total=len(store.rows), unit="shards") as progress:
            for shard, found in _checked(store.rows, partial(_check_batch, folder, config.sample, part_starts(store))):
                problems += found
                damaged += [store.rows[shard]] if found else []
                progress.advance(1, note=f"{len(problems)} problems")
    if config.repair and damaged:
        with claim(folder, break_claim=config.break_claim):
            drop_shards(folder, damaged)
    counts = store.document["counts"]
    assert isinstance(counts, dict)
    return VerifyReport(
        **counts, shards=len(store.rows), problems=sorted(problems), dropped=len(damaged) if config.repair else 0
    )


def _checked(
    rows: Sequence[IndexRow], check: Callable[[dict[str, NDArray[np.object_]]], dict[str, NDArray[np.str_]]]
) -> Iterator[tuple[int, list[str]]]:
    """Each row's place and its problems, in any order, through Ray Data."""
    import ray.data

    dataset = ray.data.from_items(
        [{"place": place, "row": json.dumps(asdict(row))} for place, row in enumerate(rows)],
        override_num_blocks=min(len(rows), _MAX_BLOCKS),
    ).map_batches(check, batch_size=1, batch_format="numpy")
    for row in dataset.iter_rows():
        yield row["place"], json.loads(row["problems"])


def _check_batch(
    folder: Folder, sample: int, starts: Sequence[int], batch: dict[str, NDArray[np.object_]]
) -> dict[str, NDArray[np.str_]]:
    (text,) = batch["row"]
    problems = check_shard(folder, IndexRow(**json.loads(text)), sample=sample, starts=starts)
    return {"place": batch["place"], "problems": np.array([json.dumps(problems)])}

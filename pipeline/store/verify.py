"""What must be true of a finished store: accounting, hashes, coverage of the plan, and samples that decode."""

import hashlib
import io
import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.store.clipshard import read_clips
from pipeline.store.documents import read_json
from pipeline.store.files import FileRecord, Folder, digest_stream
from pipeline.store.index import IndexRow, Store, open_store, total_counts
from pipeline.store.ledger import ShardRecord, index_row, read_ledger
from pipeline.store.plan import Plan, RunRefusedError, plan_sha256
from pipeline.store.planned_clips import read_planned_keys
from pipeline.store.planned_shards import PlannedShard
from pipeline.store.stored_keys import read_stored_keys
from pipeline.store.tables import read_table
from schemas.metadata import (
    AUDIT_FORMAT,
    CLIP_STORE_FORMAT,
    LATENT_STORE_FORMAT,
    PLAN_FILE,
    PLAN_OUTCOMES_FILE,
    STORE_FILE,
    ledger_file,
)
from vitok.latents.tar import read_samples

_FORMATS = (CLIP_STORE_FORMAT, LATENT_STORE_FORMAT, AUDIT_FORMAT)
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, pa.ArrowException, RunRefusedError)
"""What a damaged plan raises."""


def open_any_store(folder: Folder) -> Store:
    """Open a store of whichever format it says it is.

    Raises:
        ValueError: There is no finished store, its format is unknown, or its index is damaged.
    """
    try:
        found = read_json(folder, STORE_FILE).get("format")
    except FileNotFoundError:
        found = CLIP_STORE_FORMAT  # open_store says what is missing
    if found not in _FORMATS:
        raise ValueError(f"{folder.path(STORE_FILE)}: format {found!r}, expected one of {', '.join(_FORMATS)}")
    return open_store(folder, format_name=str(found))


def check_totals(store: Store) -> list[str]:
    """Problems of the whole: planned = stored + filtered + rejected, in the plan, the index and `store.json` alike."""
    try:
        plan = Plan.load(store.folder)
    except _UNREADABLE as error:
        return [f"the plan cannot be read: {error}"]
    if plan is None:
        return ["the plan is missing"]
    problems = []
    if _is_growing(store, plan):
        problems.append(_unfinished(store, plan))
        plan = plan.before()
    elif plan_sha256(store.folder) != store.document["plan_sha256"]:
        problems.append(f"{PLAN_FILE}: is not the plan that the store was closed with")
    for file in plan.files:
        problems += _check_bytes(store.folder, file)
    if plan.fingerprint != store.document["fingerprint"]:
        problems.append(f"store.json has fingerprint {store.document['fingerprint']}, the plan {plan.fingerprint}")
    planned = [(shard.index, shard.bucket, shard.num_clips) for shard in plan.shards]
    indexed = [(row.shard, row.bucket, row.planned) for row in store.rows]
    if planned != indexed:
        problems.append(f"the index lists {len(indexed)} shards that are not the plan's {len(planned)}")
    if plan.counts.filtered + plan.counts.rejected:
        paths = plan.paths(PLAN_OUTCOMES_FILE)
        problems += _check_outcomes(store.folder, paths, filtered=plan.counts.filtered, rejected=plan.counts.rejected)
    totals = total_counts(plan, store.rows)
    if totals != store.document["counts"]:
        problems.append(f"store.json counts {store.document['counts']}, its parts {totals}")
    if totals["planned"] != totals["stored"] + totals["filtered"] + totals["rejected"]:
        problems.append(f"planned is not stored + filtered + rejected: {totals}")
    return problems


def _is_growing(store: Store, plan: Plan) -> bool:
    """Whether the plan has grown since the store was closed, and the store not yet."""
    return bool(plan.parts) and store.document["plan_sha256"] == plan.parts[-1].before_sha256


def _unfinished(store: Store, plan: Plan) -> str:
    first, end = plan.parts[-1].first_shard, len(plan.shards)
    committed = sum(first <= index < end for index in read_ledger(store.folder))
    return (
        f"an append has begun and not finished: {committed} of its {end - first} shards are committed. Until it has, "
        f"{STORE_FILE} lists the {first} shards from before; start the same command again, and it goes on"
    )


def stray_files(store: Store) -> list[str]:
    """Shards, outcomes and ledger records that neither the index nor an unfinished append knows."""
    known = {path for row in store.rows for path in (row.path, row.outcomes_path, ledger_file(row.shard))}
    found = [path for path in store.folder.find() if path.startswith(("grid=", "ledger/", "outcomes/"))]
    strays = [path for path in found if path not in known]
    return [f"{path}: not in the index" for path in strays if path not in _growing_files(store, strays)]


def _growing_files(store: Store, paths: Sequence[str]) -> set[str]:
    """Those of the paths that an unfinished append has written."""
    try:
        plan = Plan.load(store.folder) if paths else None
    except _UNREADABLE:
        return set()  # `check_totals` says so
    if plan is None or not _is_growing(store, plan):
        return set()
    shards = plan.shards[plan.parts[-1].first_shard :]
    stems = {stem for shard in shards for stem in (shard.name, f"outcomes/{shard.name}", ledger_file(shard.index))}
    return {path for path in paths if path in stems or path.rpartition(".")[0] in stems}


def part_starts(store: Store) -> tuple[int, ...]:
    """`Plan.part_starts` of a store, without its shards; of a plan that cannot be read, those of one never grown."""
    try:
        parts = cast(list[dict[str, int]], read_json(store.folder, PLAN_FILE).get("parts", []))
        return (0, *(part["first_shard"] for part in parts))
    except _UNREADABLE:
        return (0,)  # `check_totals` says so


def check_shard(folder: Folder, row: IndexRow, *, sample: int, starts: Sequence[int] = (0,)) -> list[str]:
    """Problems of one shard: its record, its bytes, its keys against the plan, and a few clips decoded.

    Args:
        folder: The store.
        row: The shard.
        sample: Clips that are decoded.
        starts: See `part_starts`.
    """
    try:
        data = folder.read_bytes(ledger_file(row.shard))
    except OSError as error:
        return [f"shard {row.shard}: ledger record cannot be read: {error}"]
    if hashlib.sha256(data).hexdigest() != row.record_sha256:
        return [f"shard {row.shard}: {ledger_file(row.shard)} is not the record that the index was made of"]
    record = ShardRecord.from_json(json.loads(data))
    problems = []
    if index_row(record) != asdict(row):
        problems.append(f"shard {row.shard}: the ledger says {index_row(record)}, the index {row}")
    for file in (record.file, record.outcomes):
        if file is not None:
            problems += _check_bytes(folder, file)
    if problems:
        return problems  # contents of a damaged file prove nothing
    try:
        return _check_contents(folder, record, sample, starts)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        return [f"shard {row.shard}: contents cannot be read: {error}"]


def _check_bytes(folder: Folder, file: FileRecord) -> list[str]:
    try:
        with folder.open(file.path) as stream:
            size_bytes, sha256 = digest_stream(stream)
    except OSError as error:
        return [f"{file.path}: cannot be read: {error}"]
    if (size_bytes, sha256) != (file.size_bytes, file.sha256):
        found = f"{size_bytes} bytes with sha256 {sha256[:12]}"
        return [f"{file.path}: {found}, committed were {file.size_bytes} with {file.sha256[:12]}"]
    return []


def _check_contents(folder: Folder, record: ShardRecord, sample: int, starts: Sequence[int]) -> list[str]:
    part = bisect_right(starts, record.index) - 1
    shard = PlannedShard(
        index=record.index, bucket=record.bucket, num_clips=record.planned, part=part, part_start=starts[part]
    )
    problems = []
    ended: list[str] = []
    if record.outcomes is not None:
        ended = read_table(folder.read_bytes(record.outcomes.path))["key"].to_pylist()
        problems += _check_outcomes(folder, [record.outcomes.path], filtered=record.filtered, rejected=record.rejected)
    stored: list[str] = []
    if record.file is not None:
        stored = list(read_stored_keys(folder, record.file.path))
        problems += _check_sample(folder, record.file.path, sample)
    if len(stored) != record.stored:
        problems.append(f"{shard.name}: holds {len(stored)} clips, committed were {record.stored}")
    planned = read_planned_keys(folder, shard)
    if planned is not None and Counter(planned) != Counter(stored + ended):
        missing = sorted((Counter(planned) - Counter(stored + ended)).elements())
        extra = sorted((Counter(stored + ended) - Counter(planned)).elements())
        problems.append(f"{shard.name}: clips without an outcome {missing[:3]}, clips nobody planned {extra[:3]}")
    elif len(set(stored + ended)) != record.planned:
        problems.append(f"{shard.name}: {len(set(stored + ended))} different clips, planned were {record.planned}")
    return problems


def _check_outcomes(folder: Folder, paths: Sequence[str], *, filtered: int, rejected: int) -> list[str]:
    kinds: Counter[str] = Counter()
    for path in paths:
        try:
            kinds.update(read_table(folder.read_bytes(path))["outcome"].to_pylist())
        except (OSError, pa.ArrowException) as error:
            return [f"{path}: cannot be read: {error}"]
    if (kinds["filtered"], kinds["rejected"]) != (filtered, rejected):
        counted = f"counted were {filtered} filtered and {rejected} rejected"
        return [f"{', '.join(paths) or 'no file of outcomes'}: holds {dict(kinds)}, {counted}"]
    return []


def _check_sample(folder: Folder, path: str, sample: int) -> list[str]:
    """Decode the first clips; how depends on what the shard holds."""
    if not sample:
        return []
    with folder.open(path) as stream:
        if path.endswith(".parquet"):
            rows = next(pq.ParquetFile(stream).iter_batches(batch_size=sample, use_threads=False))
            latents = ((str(row["key"]), _latent_cells(rows.schema, row)) for row in rows.to_pylist())
            return _nonfinite(path, latents)
        if read_json(folder, STORE_FILE)["format"] == CLIP_STORE_FORMAT:
            for _ in islice(read_clips(stream, where=path), sample):
                pass
            return []
        samples = islice(read_samples(stream, where=path), sample)
        return _nonfinite(path, ((key, _latent_members(members)) for key, members in samples))


def _nonfinite(path: str, latents: Iterable[tuple[str, Iterable[tuple[str, np.ndarray]]]]) -> list[str]:
    return [
        f"{path}: {key} has NaN or Inf in {name}"
        for key, columns in latents
        for name, values in columns
        if not np.isfinite(values).all()
    ]


def _latent_cells(schema: pa.Schema, row: Mapping[str, object]) -> Iterator[tuple[str, np.ndarray]]:
    for field in schema:
        if field.metadata and b"dtype" in field.metadata:
            cell = row[field.name]
            assert isinstance(cell, bytes)
            dtype = field.metadata[b"dtype"].decode()
            values = np.frombuffer(cell, np.uint16 if dtype == "bfloat16" else dtype)
            yield field.name, _as_numbers(values.reshape(json.loads(field.metadata[b"shape"])), dtype)


def _latent_members(members: Mapping[str, bytes]) -> Iterator[tuple[str, np.ndarray]]:
    dtype = json.loads(members["json"])["latent_dtype"]
    for extension, data in members.items():
        if extension.endswith(".npy"):
            values = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
            yield extension.removesuffix(".npy"), _as_numbers(values, dtype)


def _as_numbers(values: np.ndarray, dtype: str) -> np.ndarray:
    """Stored latents as numpy can compute with them: bfloat16 is the upper half of a float32."""
    return (values.astype(np.uint32) << 16).view(np.float32) if dtype == "bfloat16" else values

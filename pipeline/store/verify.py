"""What must be true of a finished store: accounting, hashes, coverage of the plan, and samples that decode."""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.store.clipshard import read_clips, read_keys
from pipeline.store.documents import read_json
from pipeline.store.files import FileRecord, Folder, digest_stream
from pipeline.store.index import IndexRow, Store, open_store, total_counts
from pipeline.store.ledger import ShardRecord, index_row
from pipeline.store.plan import Plan, PlannedShard, RunRefusedError, read_planned_clips, read_table
from schemas.metadata import (
    AUDIT_FORMAT,
    CLIP_STORE_FORMAT,
    LATENT_STORE_FORMAT,
    PLAN_FILE,
    PLAN_OUTCOMES_FILE,
    STORE_FILE,
    clips_file,
    ledger_file,
)
from vitok.latents.tar import read_samples

_FORMATS = (CLIP_STORE_FORMAT, LATENT_STORE_FORMAT, AUDIT_FORMAT)


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
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException, RunRefusedError) as error:
        return [f"the plan cannot be read: {error}"]
    if plan is None:
        return ["the plan is missing"]
    problems = []
    found = hashlib.sha256(store.folder.read_bytes(PLAN_FILE)).hexdigest()
    if found != store.document["plan_sha256"]:
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
        problems += _check_outcomes(
            store.folder, PLAN_OUTCOMES_FILE, filtered=plan.counts.filtered, rejected=plan.counts.rejected
        )
    totals = total_counts(plan, store.rows)
    if totals != store.document["counts"]:
        problems.append(f"store.json counts {store.document['counts']}, its parts {totals}")
    if totals["planned"] != totals["stored"] + totals["filtered"] + totals["rejected"]:
        problems.append(f"planned is not stored + filtered + rejected: {totals}")
    return problems


def stray_files(store: Store) -> list[str]:
    """Shards, outcomes and ledger records that the index does not know."""
    known = {path for row in store.rows for path in (row.path, row.outcomes_path, ledger_file(row.shard))}
    found = [path for path in store.folder.find() if path.startswith(("grid=", "ledger/", "outcomes/"))]
    return [f"{path}: not in the index" for path in found if path not in known]


def check_shard(folder: Folder, row: IndexRow, *, sample: int) -> list[str]:
    """Problems of one shard: its record, its bytes, its keys against the plan, and a few clips decoded."""
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
        return _check_contents(folder, record, sample)
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


def _check_contents(folder: Folder, record: ShardRecord, sample: int) -> list[str]:
    shard = PlannedShard(index=record.index, bucket=record.bucket, num_clips=record.planned)
    problems = []
    ended: list[str] = []
    if record.outcomes is not None:
        ended = read_table(folder.read_bytes(record.outcomes.path))["key"].to_pylist()
        problems += _check_outcomes(folder, record.outcomes.path, filtered=record.filtered, rejected=record.rejected)
    stored: list[str] = []
    if record.file is not None:
        stored = _stored_keys(folder, record.file.path)
        problems += _check_sample(folder, record.file.path, sample)
    if len(stored) != record.stored:
        problems.append(f"{shard.name}: holds {len(stored)} clips, committed were {record.stored}")
    planned = _planned_keys(folder, shard)
    if planned is not None and Counter(planned) != Counter(stored + ended):
        missing = sorted((Counter(planned) - Counter(stored + ended)).elements())
        extra = sorted((Counter(stored + ended) - Counter(planned)).elements())
        problems.append(f"{shard.name}: clips without an outcome {missing[:3]}, clips nobody planned {extra[:3]}")
    elif len(set(stored + ended)) != record.planned:
        problems.append(f"{shard.name}: {len(set(stored + ended))} different clips, planned were {record.planned}")
    return problems


def _check_outcomes(folder: Folder, path: str, *, filtered: int, rejected: int) -> list[str]:
    try:
        kinds = Counter(read_table(folder.read_bytes(path))["outcome"].to_pylist())
    except (OSError, pa.ArrowException) as error:
        return [f"{path}: cannot be read: {error}"]
    if (kinds["filtered"], kinds["rejected"]) != (filtered, rejected):
        return [f"{path}: holds {dict(kinds)}, counted were {filtered} filtered and {rejected} rejected"]
    return []


def _planned_keys(folder: Folder, shard: PlannedShard) -> list[str] | None:
    """Keys planned for a shard; None where the plan lies over another store's shards, which know their keys."""
    if not folder.exists(clips_file(shard.index)[0]):
        return None
    return [clip.key for clip in read_planned_clips(folder, shard)]


def _stored_keys(folder: Folder, path: str) -> list[str]:
    with folder.open(path) as stream:
        if path.endswith(".tar"):
            return read_keys(stream, where=path)
        keys: list[str] = read_table(stream, columns=["key"])["key"].to_pylist()
        return keys


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

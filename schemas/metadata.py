"""Names and versions of what is on disk, and the strict check that says what differs."""

from collections.abc import Mapping

FORMAT_VERSION = 1
"""Version of every folder layout below; readers refuse another one."""

CLIP_STORE_FORMAT = "vitok-clips"
LATENT_STORE_FORMAT = "vitok-latents"
AUDIT_FORMAT = "vitok-audit"
AUDIT_RECORD_FORMAT = "vitok-audit-record"

STORE_FILE = "store.json"
"""Written last: a folder with it is a finished store. Keys: format, format_version, fingerprint, counts, buckets,
plan_sha256 (of plan.json), index and, by format: preprocessing, columns (clips); tokenizer, latent, preprocessing,
columns, normalisation (latents; its `tokenizer` is the mean and std by channel that the tokenizer's authors state,
absent where they state none); candidate, audit (audits). `columns` are the pass-through ones, by name and type. Last
comes seal: the sha256 of the canonical JSON of all other keys."""

INDEX_FILE = "index.parquet"
"""The ledger folded into one table (schemas.manifest.INDEX_SCHEMA); `store.json` has its path and sha256. A store that
grew has one for each time that it was closed (`index_file`)."""

PLAN_FILE = "plan/plan.json"
"""Written when the plan is whole: format_version, job, fingerprint, identity (what the fingerprint hashes), counts,
files (path, size_bytes and sha256 of the plan's other files). A plan that grew has also parts, in order: first_shard,
identity (null: shards of media that a retry brought back) and before (plan_sha256 and counts of the plan that it grew);
its fingerprint hashes all identities, its counts are those of the whole. Files of a part: `part_file`."""

MEDIA_FILE = "plan/media.parquet"
SHARDS_FILE = "plan/shards.parquet"
PLAN_OUTCOMES_FILE = "plan/outcomes.parquet"
"""Media that ended while planning: no shard holds a clip of theirs."""

CLAIM_FILE = "claim.json"
"""Present while a run writes here: who holds the folder. On object stores with `claim/` beside it: who succeeded whom,
and the holder's beat (`pipeline.store.lease`)."""

RUNS_FOLDER = "runs"
"""One folder a run: config.json (resolved) and record.json (times, counts). The only files that differ between two
runs of one plan."""

AUDIT_FILE = "audit.json"
"""The record of an audit, beside the stores of its candidates: protocol_id, protocol (what two audits must agree in),
protocol_name, clips (where they were), intervals (what they are), edges (of the histograms' bins, by metric),
candidates (name, settings, counts, metrics, slices, latents, ...), and a seal, as `store.json` has one."""

SHARDS_PER_PLAN_FILE = 1000
"""Planned clips stand in `plan/clips-NNNNN.parquet`, one row group a shard, this many shards a file."""


def part_file(path: str, part: int) -> str:
    """Path of a plan's file in one of the plan's parts; those of part 0, the first plan, stand in `plan/` itself.

    >>> part_file(SHARDS_FILE, 2)
    'plan/part-00002/shards.parquet'
    """
    folder, _, name = path.partition("/")
    return f"{folder}/part-{part:05d}/{name}" if part else path


def index_file(part: int) -> str:
    """Path of the index of a store whose plan's last part is this one: that of a store never grown, or a new one.

    The old one stays, so that a store is readable at any moment of its growth.

    >>> index_file(0), index_file(2)
    ('index.parquet', 'index-00002.parquet')
    """
    return f"index-{part:05d}.parquet" if part else INDEX_FILE


def clips_file(shard_index: int) -> tuple[str, int]:
    """Path of the plan file that holds a shard's clips, and the row group inside it, by its place in its part."""
    return f"plan/clips-{shard_index // SHARDS_PER_PLAN_FILE:05d}.parquet", shard_index % SHARDS_PER_PLAN_FILE


def ledger_file(shard_index: int) -> str:
    """Path of a shard's ledger record; a thousand to a folder, so that no folder grows without bound."""
    return f"ledger/{shard_index // 1000:05d}/{shard_index:08d}.json"


def differences(expected: Mapping[str, object], found: Mapping[str, object], prefix: str = "") -> list[str]:
    """Lines "key: EXPECTED, now FOUND" for every leaf that differs; empty where both agree.

    >>> differences({"a": {"b": 1}}, {"a": {"b": 2}})
    ['a.b: 1, now 2']
    """
    lines = []
    for key in sorted(expected.keys() | found.keys()):
        name = f"{prefix}{key}"
        if key not in expected:
            lines.append(f"{name}: absent, now {found[key]!r}")
        elif key not in found:
            lines.append(f"{name}: {expected[key]!r}, now absent")
        else:
            old, new = expected[key], found[key]
            if isinstance(old, Mapping) and isinstance(new, Mapping):
                lines += differences(old, new, f"{name}.")
            elif old != new:
                lines.append(f"{name}: {old!r}, now {new!r}")
    return lines


def check_format(document: Mapping[str, object], *, format_name: str, where: str) -> None:
    """Refuse a document of another format or version.

    Raises:
        ValueError: Says what was found, what was expected and where.
    """
    found = (document.get("format"), document.get("format_version"))
    if found != (format_name, FORMAT_VERSION):
        raise ValueError(
            f"{where}: format {found[0]!r} version {found[1]!r}, expected {format_name!r} version {FORMAT_VERSION}"
        )

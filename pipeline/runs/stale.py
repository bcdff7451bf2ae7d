"""Why a latent store is stale: what made it beside what is given now, line by line, hashes told by what they hash."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from pipeline.runs.clips import clip_shapes, passed_columns, tokenizer_url
from pipeline.store.documents import read_json
from pipeline.store.files import Folder
from pipeline.store.index import IndexRow, Store, earlier_states, is_closed, open_store
from pipeline.store.plan import Plan
from schemas.metadata import CLIP_STORE_FORMAT, LATENT_STORE_FORMAT, STORE_FILE, differences


@dataclass(frozen=True, kw_only=True, slots=True)
class StaleConfig:
    """Say what differs between what made a latent store and what would make it now."""

    store: str
    """Latent store: path or URL."""
    tokenizer: str = ""
    """Compare with this tokenizer: folder, path or URL, or module:function."""
    shards: str = ""
    """Compare with this clip store: path or URL."""

    def __post_init__(self) -> None:
        if not self.tokenizer and not self.shards:
            raise ValueError("--tokenizer and --shards: got neither, expected one or both to compare the store with")


def why_stale(config: StaleConfig) -> list[str]:
    """What differs, line by line; nothing where the store is what would be made now.

    Raises:
        ValueError: One of the places holds no finished store, or the tokenizer cannot be used.
    """
    output = Folder(config.store)
    document = open_store(output, format_name=LATENT_STORE_FORMAT).document
    plan = Plan.load(output)
    assert plan is not None, "a finished store has a plan"
    lines = [] if is_closed(output) else ["store: an append has begun and not finished; start it again"]
    source = open_store(Folder(config.shards), format_name=CLIP_STORE_FORMAT) if config.shards else None
    if config.tokenizer:
        lines += _tokenizer_differences(document["tokenizer"], _described(config.tokenizer, source))
    if source is not None:
        now = {"preprocessing": source.document["preprocessing"], "columns": passed_columns(source)}
        lines += protocol_differences(document, now)
        lines += compare_clips(plan, source).lines
    return lines


def _described(name: str, source: Store | None) -> dict[str, object]:
    """What `store.json` would say of a tokenizer."""
    from vitok.adapters.load import load_adapter

    adapter = load_adapter(tokenizer_url(name))
    described = adapter.describe(set() if source is None else clip_shapes(source))
    return {"fingerprint": adapter.fingerprint, "config": dict(described.config)}


def made_differences(
    output: Folder, plan: Plan, identity: Mapping[str, object], details: Mapping[str, object]
) -> list[str]:
    """What differs in how latents are made, of whichever clips.

    Args:
        output: The latent store, finished or not.
        plan: Its plan.
        identity: What a plan would have now.
        details: What its `store.json` would have.
    """
    apart = ("clips", "tokenizer")
    before = {name: value for name, value in plan.identity.items() if name not in apart}
    now = {name: value for name, value in identity.items() if name not in apart}
    lines = differences({"job": plan.job, **before}, {"job": "encode", **now})
    if plan.identity.get("tokenizer") == identity["tokenizer"]:
        return lines
    if not output.exists(STORE_FILE):
        return [
            *lines,
            *differences({"tokenizer": plan.identity.get("tokenizer")}, {"tokenizer": identity["tokenizer"]}),
        ]
    return lines + _tokenizer_differences(read_json(output, STORE_FILE).get("tokenizer"), details["tokenizer"])


def _tokenizer_differences(made: object, now: object) -> list[str]:
    """Lines of two keys `tokenizer` of `store.json`: the config where that differs, else the weights."""
    before, after = (cast(Mapping[str, object], value or {}) for value in (made, now))
    if before.get("fingerprint") == after["fingerprint"]:
        return []
    lines = differences({"tokenizer": {"config": before.get("config")}}, {"tokenizer": {"config": after["config"]}})
    return lines or [
        f"tokenizer: the same config with other weights: {before.get('fingerprint')!r}, now {after['fingerprint']!r}"
    ]


def protocol_differences(made: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """What differs in what made the clips, and in their pass-through columns, of two documents `store.json`."""
    names = ("preprocessing", "columns")
    return differences({name: made[name] for name in names}, {name: now[name] for name in names})


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipChange:
    """What a clip store is to a latent store."""

    new: Sequence[IndexRow]
    """Shards with clips that no latent is made of."""
    all_related: bool
    """The latents are made of this clip store alone, as it is or before it grew."""
    lines: Sequence[str]
    """What differs; nothing where every clip shard has its latents."""
    has_changed: bool = False
    """The latents are made of this clip store, and its shards are no longer what they were."""


def compare_clips(plan: Plan, source: Store) -> ClipChange:
    """Compare the clip shards that a latent store was made of with those of a clip store: O(shards), none is read.

    Args:
        plan: Of the latent store.
        source: The clip store.
    """
    made = [
        cast(dict[str, object], identity["clips"]) for identity in plan.identities if identity and "clips" in identity
    ]
    states = earlier_states(source)
    parts = {part for part, clips in enumerate(made) if clips in states}
    history = _history(source)
    changed = {part for part, clips in enumerate(made) if part not in parts and clips["fingerprint"] in history}
    planned = [shard for shard in plan.shards if shard.part in parts | changed]
    covered = {path for shard in planned for path in shard.sources}
    stored = {row.path: row.stored for row in source.rows if row.path is not None}
    new = [row for row in source.rows if row.path is not None and row.path not in covered]
    lines: list[str] = []
    if changed:
        missing = len(covered - stored.keys())
        other = sum(sum(stored.get(path, 0) for path in shard.sources) != shard.num_clips for shard in planned)
        lines.append(
            f"clips: {source.folder.url} has changed: {len(new)} clip shards are new, {missing} missing, {other} "
            f"latent shards are of another number of clips; index {made[-1]['index_sha256']!r}, now "
            f"{source.identity['index_sha256']!r}"
        )
    elif parts and new:
        clips = sum(row.stored for row in new)
        lines.append(
            f"clips: {len(new)} clip shards ({clips} clips) of {source.folder.url} are new; --append adds them"
        )
    elif not parts:
        before = made[-1] if made else f"of no clip store, by the job {plan.job}"
        lines += differences({"clips": before}, {"clips": source.identity})
    return ClipChange(new=new, all_related=len(parts) == len(made), lines=lines, has_changed=bool(changed))


def _history(source: Store) -> tuple[str, ...]:
    plan = Plan.load(source.folder)
    assert plan is not None, "a finished store has a plan"
    return plan.history

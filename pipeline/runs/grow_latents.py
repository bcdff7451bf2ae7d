"""Appending clip shards to a latent store: which have no latents yet, and the refusal of what does not go with it."""

import logging
from collections.abc import Mapping

from pipeline.runs.clips import TokenizerRun
from pipeline.runs.planned import Append
from pipeline.runs.stale import compare_clips, made_differences, protocol_differences
from pipeline.store.documents import read_json
from pipeline.store.index import Store, earlier_states, open_store
from pipeline.store.plan import Plan, PlanCounts, refuse_other
from pipeline.store.stored_keys import refuse_repeats
from schemas.metadata import LATENT_STORE_FORMAT, STORE_FILE

logger = logging.getLogger(__name__)


def append_clip_shards(run: TokenizerRun, identity: Mapping[str, object], details: Mapping[str, object]) -> Append:
    """How the plan of a latent store takes in clip shards that it was not made of: `run.source`, grown, or another.

    What the latents were made with, what made the clips, and the pass-through columns, by name and type, must be the
    same. A clip that the store has already is refused, found by its key; where the store is made of `run.source` alone
    no key is read, for no media is appended to a clip store twice.

    Args:
        run: The tokenizer and the clip store.
        identity: Of a plan over the whole clip store.
        details: What `store.json` would say of it.
    """
    source, output = run.source, run.output

    def grow(plan: Plan) -> Plan | None:
        latents = open_store(output, format_name=LATENT_STORE_FORMAT)
        refuse_other(output, protocol_differences(latents.document, details))
        change = compare_clips(plan, source)
        if change.has_changed:
            refuse_other(output, change.lines)
        if not change.new:
            return None
        if not change.all_related:
            refuse_repeats([(latents, latents.rows), (source, change.new)], output=output)
        shards = run.lay(change.new)
        clips = sum(shard.num_clips for shard in shards)
        logger.info("encode: %d clips of %s are new in %s", clips, source.folder.url, output.url)
        counts = plan.counts + PlanCounts(media=0, clips=clips)
        return plan.grow(output, identity=identity, counts=counts, shards=shards)

    return Append(differences=lambda plan: made_differences(output, plan, identity, details), grow=grow)


def clip_differences(run: TokenizerRun, plan: Plan, details: Mapping[str, object]) -> list[str]:
    """What of the clips is not as the plan of a latent store was made for, line by line; see `append_clip_shards`."""
    lines: list[str] = []
    if run.output.exists(STORE_FILE):
        lines += protocol_differences(read_json(run.output, STORE_FILE), details)
    return [*lines, *compare_clips(plan, run.source).lines]


def has_clips(source: Store, identity: Mapping[str, object]) -> bool:
    """Whether a part of a plan, by its identity, is made of a clip store as it is or as it was before it grew."""
    clips = identity.get("clips")
    return clips == source.identity or clips in earlier_states(source)

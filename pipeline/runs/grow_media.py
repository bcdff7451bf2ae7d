"""Appending media: which of those that are given a store is not made of yet, and the refusal of those that changed."""

import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from pipeline.media.reject import RejectClip
from pipeline.media.repeats import Repeats
from pipeline.media.retry import RetryPolicy
from pipeline.runs.clip_plan import append_clips
from pipeline.runs.cluster import connect
from pipeline.runs.planned import Append
from pipeline.runs.survey import MediaSpool
from pipeline.stages.protocol import ClipProtocol
from pipeline.store.documents import canonical_json
from pipeline.store.files import Folder
from pipeline.store.ledger import read_outcomes
from pipeline.store.plan import Plan, RunRefusedError
from pipeline.store.planned_clips import read_media
from schemas.metadata import PLAN_OUTCOMES_FILE, differences

logger = logging.getLogger(__name__)


def joined_columns(output: Folder, columns: Mapping[str, str]) -> dict[str, str]:
    """Pass-through columns of a store, by name and type, with those of media that are to be appended to it."""
    plan = Plan.load(output)
    stored = {} if plan is None else plan.identity.get("columns", {})
    assert isinstance(stored, dict)
    return stored | dict(columns)


def append_media(
    spool: MediaSpool,
    damaged: Mapping[str, RejectClip],
    output: Folder,
    protocol: ClipProtocol,
    *,
    job: str,
    identity: Mapping[str, object],
    policy: RetryPolicy,
    num_workers: Callable[[], int],
    bucket_of: Callable[[str], str] = str,
) -> Append:
    """How the plan of a store that is made of media takes in those that it does not have.

    A media is known by its uri. One that is in the store and is now another (size, version, label, caption, columns,
    place in its container) is refused: the store holds what it was. Pass-through columns are those of the store, of the
    same types; new media may lack some, and have null there. `--duplicates` compares the new media with one another.

    Args:
        spool: What the inputs name.
        damaged: Containers that could not be listed to their end, and why.
        output: The store.
        protocol: How clips are made.
        job: Of the store.
        identity: Of a plan over all that the inputs name, with `joined_columns`.
        policy: How media are read.
        num_workers: Of the probe; called with Ray connected.
        bucket_of: See `plan_clips`.
    """

    def lines(plan: Plan) -> Sequence[str]:
        return plan.differences(job, dict(identity) | {"media": plan.identity.get("media")})

    def grow(plan: Plan) -> Plan | None:
        is_new = _new_media(plan, output, spool)
        newly_damaged = _new_damage(plan, output, damaged)
        if not is_new.any() and not newly_damaged:
            return None
        connect()
        with MediaSpool(compress(spool, is_new), protocol) as added:
            logger.info("%s: %d of %d media are new in %s", job, len(added), len(spool), output.url)
            return append_clips(
                plan,
                added,
                newly_damaged,
                output,
                protocol,
                identity=dict(plan.identity) | {"media": {"count": len(added), "sha256": added.sha256}},
                policy=policy,
                num_workers=num_workers(),
                bucket_of=bucket_of,
            )

    return Append(differences=lines, grow=grow)


def _new_media(plan: Plan, output: Folder, spool: MediaSpool) -> NDArray[np.bool_]:
    """Which media of a spool the plan does not have; of those named again the first counts.

    On disk, but for a byte a media of the spool and eight for each that is known.

    Raises:
        RunRefusedError: A media of the plan is another now; says how many, and what differs of the first.
    """
    with Repeats() as uris, Repeats() as rows:
        count = 0
        for media in read_media(output, plan):
            uris.add(media.uri.encode())
            rows.add(canonical_json(media.to_row()))
            count += 1
        for media in spool:
            uris.add(media.uri.encode())
            rows.add(canonical_json(media.to_row()))
        known, same = (np.zeros(spool.kinds.total(), np.bool_) for _ in range(2))
        for found, repeats in ((known, uris), (same, rows)):
            positions = repeats.repeated()
            found[positions[positions >= count] - count] = True
    changed = known & ~same
    changed[list(spool.repeated)] = False
    if changed.any():
        first = next(compress(spool, changed))
        before = next(media for media in read_media(output, plan) if media.uri == first.uri)
        raise RunRefusedError(
            f"{output.url} holds {changed.sum()} of the media as they were before they changed: {first.uri}:\n  "
            + "\n  ".join(differences(before.to_row(), first.to_row()))
            + "\nAn append adds what is new and makes nothing again: give another --output, or leave these media out"
        )
    is_new: NDArray[np.bool_] = ~known
    return is_new


def _new_damage(plan: Plan, output: Folder, damaged: Mapping[str, RejectClip]) -> dict[str, RejectClip]:
    """Damaged containers that do not stand in the plan as rejects."""
    if not damaged:
        return {}
    rows = (row for path in plan.paths(PLAN_OUTCOMES_FILE) for row in read_outcomes(output, path))
    known = {row.media_uri for row in rows if row.media_uri in damaged}
    return {uri: error for uri, error in damaged.items() if uri not in known}

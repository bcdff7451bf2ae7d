"""Which clips a report pictures, and their pictures: the worst and the best, reconstructed once more."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.media.reject import RejectClip
from pipeline.stages.reconstruct import reconstruct
from pipeline.stages.tokenizer import Tokenizer
from pipeline.store.clipshard import read_clips
from pipeline.store.index import Store
from pipeline.store.plan import Plan, read_table


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A clip beside its reconstruction."""

    key: str
    media_uri: str
    values: dict[str, float]
    """By metric."""
    original: NDArray[np.uint8]
    """[T, H, W, 3]."""
    reconstruction: NDArray[np.uint8]
    """[T, H, W, 3]."""


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class _Ranked:
    score: float
    key: str
    shard: int


def worst_and_best(
    audit: Store, source: Store, make_tokenizer: Callable[[], Tokenizer], *, metrics: Sequence[str], count: int
) -> list[Example]:
    """Up to `count` clips of an audit, from worst to best by its first metric; half from either end.

    Reads the audit's rows shard by shard and keeps no more than `count` of them; a handful of clips is then
    reconstructed in this process.
    """
    ranked: list[_Ranked] = []
    values: dict[str, dict[str, float]] = {}
    for row in audit.rows:
        if row.path is None:
            continue
        with audit.folder.open(row.path) as stream:
            measured = read_table(stream, columns=["key", *metrics]).to_pylist()
        values |= {entry["key"]: {name: entry[name] for name in metrics} for entry in measured}
        ranked += [_Ranked(score=entry[metrics[0]], key=entry["key"], shard=row.shard) for entry in measured]
        ranked.sort()
        if len(ranked) > count:
            ranked = ranked[: (count + 1) // 2] + ranked[len(ranked) - count // 2 :]
        values = {item.key: values[item.key] for item in ranked}
    if not ranked:
        return []
    plan = Plan.load(audit.folder)
    assert plan is not None
    tokenizer = make_tokenizer()
    found: dict[str, Example] = {}
    for index in sorted({item.shard for item in ranked}):
        for path in plan.shards[index].sources:
            with source.folder.open(path) as stream:
                for clip in read_clips(stream, where=source.folder.path(path)):
                    if clip.metadata.key in values:
                        (reconstruction,) = reconstruct(tokenizer, [clip])
                        if isinstance(reconstruction, RejectClip):
                            continue  # finite in its batch, not alone: nothing to picture
                        found[clip.metadata.key] = Example(
                            key=clip.metadata.key,
                            media_uri=clip.metadata.media_uri,
                            values=values[clip.metadata.key],
                            original=clip.pixels,
                            reconstruction=reconstruction,
                        )
    return [found[item.key] for item in ranked if item.key in found]

"""Clips of a store as pictures, spread over it; of a latent store their latents beside them.

Axes: T time, H height, W width (of latents: in tubelets), K latent channels.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.report.latents import component_pictures
from pipeline.report.pictures import Film, film_of
from pipeline.store.clipshard import Clip, read_clips
from pipeline.store.index import Store
from pipeline.store.plan import Plan
from vitok.latents.sequential import LatentBatch
from vitok.latents.store import LatentStore

_COLUMNS = ("key", "media_uri", "media_sha256", "start_seconds", "fps", "label", "caption")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredExample:
    """One clip of a store."""

    key: str
    media_uri: str
    label: str | None
    caption: str | None
    fps: float | None
    """None: an image."""
    pictures: Mapping[str, Film]
    """By what they show."""


def clip_examples(store: Store, count: int) -> list[StoredExample]:
    """Up to `count` clips of a clip store, evenly apart in its order.

    Raises:
        ValueError: A shard is damaged.
    """
    return [
        StoredExample(
            key=clip.metadata.key,
            media_uri=clip.metadata.media_uri,
            label=clip.metadata.label,
            caption=clip.metadata.caption,
            fps=clip.metadata.fps,
            pictures={"clip": film_of(clip.pixels)},
        )
        for clip in _clips_at(store, _spread(sum(row.stored for row in store.rows), count))
    ]


def latent_examples(store: Store, clips: Store | None, count: int) -> list[StoredExample]:
    """Up to `count` latents of a latent store, evenly apart in its order, beside their clips where those are found.

    Args:
        store: The latent store.
        clips: Clip store that is read for them; None: latents alone.
        count: How many.

    Raises:
        ValueError: A shard is damaged.
    """
    latents = LatentStore(store.folder.url)
    positions = _spread(len(latents), count)
    # One at a time: neighbours may lie in different buckets.
    batches = [latents.take([position], columns=_COLUMNS) for position in positions]
    if not batches:
        return []
    pictures = component_pictures([batch.latents["mean"][0].float().numpy() for batch in batches])
    films = {}
    if clips is not None:
        films = _films_of(_clip_shards(store, positions, clips), clips, {_identity(batch) for batch in batches})
    examples = []
    for batch, picture in zip(batches, pictures, strict=True):
        key, uri, _, _, fps, label, caption = (batch.columns[name][0] for name in _COLUMNS)
        film = films.get(_identity(batch))
        examples.append(
            StoredExample(
                key=str(key),
                media_uri=str(uri),
                label=None if label is None else str(label),
                caption=None if caption is None else str(caption),
                fps=float(fps) if isinstance(fps, float) else None,
                pictures=({"clip": film} if film else {}) | {"latent": film_of(picture)},
            )
        )
    return examples


def _clip_shards(store: Store, positions: list[int], clips: Store) -> list[str]:
    """Paths in a clip store where the clips of some latents may be: the shards that they were encoded from.

    All of them, where the latents were made of other files than this store has: of a merged store, or in one pass.
    """
    there = [row.path for row in clips.rows if row.path is not None]
    plan = Plan.load(store.folder)
    assert plan is not None, "a finished store has a plan"
    ends = np.cumsum([row.stored for row in store.rows])
    rows = {store.rows[int(place)] for place in np.searchsorted(ends, positions, side="right")}
    named = {path for row in rows for path in plan.shards[row.shard].sources}
    return [path for path in there if path in named] or there


def _films_of(paths: list[str], clips: Store, wanted: set[tuple[object, ...]]) -> dict[tuple[object, ...], Film]:
    films: dict[tuple[object, ...], Film] = {}
    for path in paths:
        if len(films) == len(wanted):
            break
        with clips.folder.open(path) as stream:
            for clip in read_clips(stream, where=clips.folder.path(path)):
                identity = (clip.metadata.key, clip.metadata.media_sha256, clip.metadata.start_seconds)
                if identity in wanted and identity not in films:
                    films[identity] = film_of(clip.pixels)
    return films


def _identity(batch: LatentBatch) -> tuple[object, ...]:
    return tuple(batch.columns[name][0] for name in ("key", "media_sha256", "start_seconds"))


def _spread(total: int, count: int) -> list[int]:
    """Up to `count` of the positions below `total`, evenly apart.

    >>> _spread(10, 3), _spread(2, 5)
    ([1, 5, 8], [0, 1])
    """
    shown = min(total, count)
    return [int((place + 0.5) * total / shown) for place in range(shown)]


def _clips_at(store: Store, positions: list[int]) -> Iterator[Clip]:
    """Clips at ascending positions in the store's order."""
    wanted = set(positions)
    first = 0
    for row in store.rows:
        here = {position - first for position in wanted if first <= position < first + row.stored}
        first += row.stored
        if row.path is None or not here:
            continue
        with store.folder.open(row.path) as stream:
            for place, clip in enumerate(read_clips(stream, where=store.folder.path(row.path))):
                if place in here:
                    yield clip
                if place == max(here):
                    break

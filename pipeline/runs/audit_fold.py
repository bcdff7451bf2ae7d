"""Folds the rows of an audit's store, in plan order: intervals, histograms, slices, the worst and the best, features.

Memory hangs on the number of shards and of a slice's values, not on that of clips.

Axes: N clips, R resamples, M metrics, D features.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.store.index import Store
from vitok.metrics.frechet import FeatureMoments
from vitok.metrics.inception_score import InceptionScoreState
from vitok.metrics.registry import FEATURES, METRICS

_ROWS = 512
"""Read at once."""
_VECTORS = 4096
"""Feature vectors whose moments are taken at once."""
_LEVELS = 2**16
MAX_SLICES = 4096
"""Values of one column that are told apart."""
OTHER_SLICES = "(all other values)"
NO_VALUE = "(none)"
SOURCE_SLICE, BUCKET_SLICE = "source", "bucket"
INTERVAL = (0.025, 0.975)


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Ranked:
    """A clip by how badly it came back."""

    badness: float
    key: str
    shard: int
    media_uri: str = field(compare=False)
    label: str | None = field(compare=False)
    fps: float | None = field(compare=False)
    values: Mapping[str, float] = field(compare=False)
    """By metric."""


@dataclass(kw_only=True, slots=True)
class SliceSums:
    """Sums over the clips of one value of a column."""

    clips: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    """Clips with a value, by metric."""
    sums: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Folded:
    """What the rows of a store add up to."""

    intervals: Mapping[str, tuple[float, float]]
    """Ends by metric."""
    histograms: Mapping[str, Sequence[int]]
    """Counts by metric."""
    slices: Mapping[str, Mapping[str, SliceSums]]
    """By column and value, in the order in which they come."""
    ranked: Sequence[Ranked]
    """The best first; half from either end."""


def fold_rows(
    store: Store,
    metrics: Sequence[str],
    *,
    edges: Mapping[str, NDArray[np.float64]],
    slices: Sequence[str],
    resamples: int,
    seed: int,
    keep: int,
    max_slices: int = MAX_SLICES,
) -> Folded:
    """Fold all but the features, in one pass.

    Args:
        store: Finished, of an audit.
        metrics: That are numbers of a clip; the first one ranks.
        edges: Of the bins of each metric's histogram, ascending.
        slices: Columns to divide the clips by; also "bucket", and "source", the folder of the media.
        resamples: Of the bootstrap; 0: no intervals.
        seed: Of the bootstrap.
        keep: Clips to rank.
        max_slices: Values of a column that are told apart; those that come after share one slice.
    """
    bootstrap = _Bootstrap(metrics, resamples=resamples, seed=seed)
    histograms = {name: np.zeros(len(edges[name]) - 1, np.int64) for name in metrics if name in edges}
    divided: dict[str, dict[str, SliceSums]] = {column: {} for column in slices}
    ranked: list[Ranked] = []
    for shard, bucket, batch in _batches(store, ["key", "media_uri", "label", "fps", *metrics, *slices]):
        there = [name for name in metrics if name in batch.schema.names]
        values = {name: batch.column(name).to_numpy(zero_copy_only=False) for name in there}
        for name in there:
            histograms[name] += np.histogram(values[name], bins=edges[name])[0]
        bootstrap.add(shard, values, len(batch))
        for column, found in divided.items():
            _divide(found, _slice_values(column, bucket, batch), values, max_slices)
        if keep and metrics and metrics[0] in values:
            ranked += _rank(batch, shard, values, metrics[0])
            ranked.sort()
            if len(ranked) > keep:
                ranked = ranked[: keep // 2] + ranked[len(ranked) - (keep + 1) // 2 :]
    return Folded(
        intervals=bootstrap.intervals(),
        histograms={name: counts.tolist() for name, counts in histograms.items()},
        slices=divided,
        ranked=ranked,
    )


def feature_moments(store: Store, name: str) -> FeatureMoments:
    """Moments of the feature vectors of all clips that have them."""
    moments = FeatureMoments.empty(FEATURES[name].width)
    waiting: list[NDArray[np.float32]] = []
    for vectors in _vectors(store, name):
        waiting.append(vectors)
        if sum(map(len, waiting)) >= _VECTORS:
            moments, waiting = moments.merge(FeatureMoments.of(np.concatenate(waiting))), []
    return moments.merge(FeatureMoments.of(np.concatenate(waiting))) if waiting else moments


def inception_state(store: Store, name: str) -> InceptionScoreState:
    """State of the class predictions of all clips that have them."""
    state = InceptionScoreState.empty(FEATURES[name].width)
    for logits in _vectors(store, name):
        state = state.merge(InceptionScoreState.of(logits))
    return state


def _vectors(store: Store, name: str) -> Iterator[NDArray[np.float32]]:
    for _, _, batch in _batches(store, [name]):
        if name in batch.schema.names:
            cells = batch.column(name)
            size = cells.type.byte_width
            data = memoryview(cells.buffers()[1])[cells.offset * size :][: len(cells) * size]
            yield np.frombuffer(data, np.float32).reshape(-1, FEATURES[name].width)


def _batches(store: Store, columns: Sequence[str]) -> Iterator[tuple[int, str, pa.RecordBatch]]:
    """Rows with those of the columns that their shard has, and the shard's number and bucket."""
    for row in store.rows:
        if row.path is None:
            continue
        with store.folder.open(row.path) as stream:
            file = pq.ParquetFile(stream)
            names = [name for name in dict.fromkeys(columns) if name in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=_ROWS, columns=names, use_threads=False):
                yield row.shard, row.bucket, batch


class _Bootstrap:
    """Intervals of means over clips, by resampling clips with replacement.

    As a stream: in each resample a clip counts as often as a Poisson number of mean 1 says, which is what the count of
    a clip among N draws tends to (Chamandy et al., Estimating Uncertainty for Massive Data Streams, 2012). The numbers
    are those of (seed, shard) and the clip's place in it, so all metrics and candidates are resampled alike.
    """

    def __init__(self, metrics: Sequence[str], *, resamples: int, seed: int) -> None:
        self._metrics = tuple(metrics)
        self._resamples = resamples
        self._seed = seed
        self._shard: int | None = None
        self._generator = np.random.default_rng(seed)
        self._sums = np.zeros((resamples, len(self._metrics)))
        self._counts = np.zeros((resamples, len(self._metrics)))

    def add(self, shard: int, values: Mapping[str, NDArray[np.float64]], count: int) -> None:
        """Count rows of a shard in, which come in their order; a metric that is not given has no values there."""
        if not self._resamples or not values:
            return
        if shard != self._shard:
            self._shard, self._generator = shard, np.random.default_rng([self._seed, shard])
        draws = self._generator.integers(0, _LEVELS, size=(count, self._resamples), dtype=np.uint16)
        weights = _POISSON[draws].T
        places = [place for place, name in enumerate(self._metrics) if name in values]
        self._sums[:, places] += weights @ np.stack([values[self._metrics[place]] for place in places], axis=1)
        self._counts[:, places] += weights.sum(axis=1, keepdims=True)

    def intervals(self) -> dict[str, tuple[float, float]]:
        """The middle 95 % of the means of the resamples, by metric."""
        found = {}
        for place, name in enumerate(self._metrics):
            drawn = self._counts[:, place] > 0
            if drawn.any():
                means = self._sums[drawn, place] / self._counts[drawn, place]
                low, high = np.quantile(means, INTERVAL).tolist()
                found[name] = (low, high)
        return found


def _poisson_table() -> NDArray[np.float64]:
    """The Poisson number of mean 1 at each of 2^16 even steps of its distribution."""
    terms = np.cumprod([np.exp(-1.0), *(1.0 / number for number in range(1, 10))])
    return np.searchsorted(np.cumsum(terms), (np.arange(_LEVELS) + 0.5) / _LEVELS).astype(np.float64)


_POISSON = _poisson_table()


def _slice_values(column: str, bucket: str, batch: pa.RecordBatch) -> list[str]:
    if column == BUCKET_SLICE:
        return [bucket] * len(batch)
    if column == SOURCE_SLICE:
        return [uri.rpartition("/")[0] or NO_VALUE for uri in batch.column("media_uri").to_pylist()]
    return [NO_VALUE if value is None else str(value) for value in batch.column(column).to_pylist()]


def _divide(
    found: dict[str, SliceSums], names: Sequence[str], values: Mapping[str, NDArray[np.float64]], most: int
) -> None:
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        known = name in found or name in places or len(found.keys() | places.keys()) < most
        places.setdefault(name if known else OTHER_SLICES, []).append(place)
    for name, rows in places.items():
        sums = found.setdefault(name, SliceSums())
        sums.clips += len(rows)
        for metric, numbers in values.items():
            sums.counts[metric] = sums.counts.get(metric, 0) + len(rows)
            sums.sums[metric] = sums.sums.get(metric, 0.0) + float(numbers[rows].sum())


def _rank(batch: pa.RecordBatch, shard: int, values: Mapping[str, NDArray[np.float64]], first: str) -> Iterator[Ranked]:
    sign = -1.0 if METRICS[first].better == "higher" else 1.0
    columns = [batch.column(name).to_pylist() for name in ("key", "media_uri", "label", "fps")]
    for place, (key, media_uri, label, fps) in enumerate(zip(*columns, strict=True)):
        numbers = {name: float(array[place]) for name, array in values.items()}
        yield Ranked(
            badness=sign * numbers[first],
            key=key,
            shard=shard,
            media_uri=media_uri,
            label=label,
            fps=fps,
            values=numbers,
        )

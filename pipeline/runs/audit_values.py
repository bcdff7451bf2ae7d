"""The numbers of an audit's candidates: means, distances to the originals, and what is not measured, and why."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from pipeline.runs.audit_fold import feature_moments, inception_state
from pipeline.runs.clips import bucket_shapes
from pipeline.store.index import Store
from vitok.metrics.frechet import FeatureMoments, frechet_distance
from vitok.metrics.registry import METRICS, Kind

if TYPE_CHECKING:
    from vitok.adapters.protocol import ClipShape

_BINS = 40
_MIN_SAMPLES = 2
"""Of a covariance."""


def clips_by_shape(source: Store) -> "dict[ClipShape, int]":
    """Number of clips of a clip store by frames, height and width."""
    clips: dict[ClipShape, int] = {}
    shapes = bucket_shapes(source)
    for row in source.rows:
        if row.stored:
            clips[shapes[row.bucket]] = clips.get(shapes[row.bucket], 0) + row.stored
    return clips


def unfit_clips(metrics: Sequence[str], clips: "Mapping[ClipShape, int]") -> dict[str, str]:
    """Which clips a metric has no value of, by metric.

    >>> unfit_clips(["psnr", "fvd"], {(1, 256, 256): 30, (16, 256, 256): 12})
    {'fvd': 'needs clips of at least 9 frames; left out are 30 of 42 clips: 30 of 1x256x256'}
    """
    found = {}
    for name in metrics:
        reasons = {shape: METRICS[name].unfit(num_frames=shape[0], height=shape[1], width=shape[2]) for shape in clips}
        unfit = {shape: reason for shape, reason in reasons.items() if reason is not None}
        if unfit:
            left_out = sum(clips[shape] for shape in unfit)
            listed = ", ".join(f"{clips[shape]} of {'x'.join(map(str, shape))}" for shape in unfit)
            why = " and ".join(dict.fromkeys(unfit.values()))
            found[name] = f"{why}; left out are {left_out} of {sum(clips.values())} clips: {listed}"
    return found


def histogram_edges(stores: Sequence[Store]) -> dict[str, NDArray[np.float64]]:
    """Ends of the bins of each metric that is a number of a clip, over the values of all candidates."""
    ranges: dict[str, list[float]] = {}
    for store in stores:
        for name, sums in _means(store).items():
            ranges.setdefault(name, []).extend((sums["min"], sums["max"]))
    return {name: _edges(min(values), max(values)) for name, values in ranges.items()}


def _edges(low: float, high: float) -> NDArray[np.float64]:
    """Of equal bins over a range; where floats are too few to divide it, half a unit to either side is in it too."""
    edges = np.linspace(low, high, _BINS + 1)
    return edges if (np.diff(edges) > 0).all() else np.linspace(low - 0.5, high + 0.5, _BINS + 1)


class Originals:
    """Moments of the originals' features: each set is read once, when a candidate is first compared with it."""

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._moments: dict[str, FeatureMoments] = {}

    def moments(self, features: str) -> FeatureMoments:
        """Of a set of features."""
        if features not in self._moments:
            assert self._store is not None, "made where a metric compares features"
            self._moments[features] = feature_moments(self._store, features)
        return self._moments[features]


def values_of(store: Store, metrics: Sequence[str], reference: Originals) -> tuple[dict[str, float], dict[str, str]]:
    """Value by metric, and why those that are missing have none.

    Args:
        store: Finished, of a candidate.
        metrics: Names.
        reference: What features are compared with.
    """
    values: dict[str, float] = {}
    missing: dict[str, str] = {}
    means = _means(store)
    for name in metrics:
        metric = METRICS[name]
        if metric.kind is Kind.MEAN:
            if name in means:
                values[name] = means[name]["mean"]
            else:
                missing[name] = "no clip was measured"
            continue
        assert metric.features is not None, "what is no mean is taken of features"
        if metric.kind is Kind.INCEPTION_SCORE:
            state = inception_state(store, metric.features)
            if state.count:
                values[name] = state.score()
            else:
                missing[name] = "no frame was measured"
            continue
        sides = (reference.moments(metric.features), feature_moments(store, metric.features))
        if min(side.count for side in sides) >= _MIN_SAMPLES:
            values[name] = frechet_distance(*sides)
        else:
            missing[name] = (
                f"needs at least {_MIN_SAMPLES} samples on either side, got {sides[0].count} and {sides[1].count}"
            )
    return values, missing


def _means(store: Store) -> Mapping[str, Mapping[str, float]]:
    audit = cast(Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]], store.document["audit"])
    return audit["metrics"]["all"]

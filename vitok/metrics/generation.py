"""Scores of generated clips: gFID, gIS, gFVD, from states that merge.

Axes: T time (frames), H height, W width, D features.

They are the Frechet distances and the Inception Score of `vitok.metrics.registry`, between clips that are no pairs.
"""

from collections.abc import Collection, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from vitok.metrics.frechet import FeatureMoments, frechet_distance
from vitok.metrics.inception_score import InceptionScoreState
from vitok.metrics.measure import Measures
from vitok.metrics.registry import METRICS, Kind

GENERATION_METRICS = tuple(name for name, metric in METRICS.items() if metric.kind is not Kind.MEAN)
"""Names of the metrics that need no pairs."""


class GenerationScores:
    """Moments of the features of generated clips and of a reference, batch by batch."""

    def __init__(self, metrics: Sequence[str], *, device: torch.device) -> None:
        """Load the networks.

        Args:
            metrics: Out of `GENERATION_METRICS`.
            device: Where they run.

        Raises:
            MissingWeightsError: The weights of one are not there.
        """
        self._metrics = tuple(metrics)
        self._measures = Measures(metrics, device=device)
        self._moments: dict[tuple[str, bool], FeatureMoments] = {}
        """By metric, and whether they are of generated clips."""
        self._predictions: dict[str, InceptionScoreState] = {}

    def add(self, clips: Sequence[NDArray[np.uint8]], *, generated: bool) -> None:
        """Take in some clips of one shape, [T, H, W, 3].

        Of the reference those metrics alone look at them that compare.
        """
        wanted = [name for name in self._metrics if generated or METRICS[name].kind is Kind.FRECHET]
        features = self._features({_set_of(name) for name in wanted}, clips)
        for name in wanted:
            vectors = features[_set_of(name)]
            if METRICS[name].kind is Kind.INCEPTION_SCORE:
                predictions = InceptionScoreState.of(vectors)
                before = self._predictions.get(name)
                self._predictions[name] = predictions if before is None else before.merge(predictions)
            else:
                moments = FeatureMoments.of(vectors)
                held = self._moments.get((name, generated))
                self._moments[name, generated] = moments if held is None else held.merge(moments)

    def values(self) -> dict[str, float]:
        """By name, in the order asked for.

        Raises:
            ValueError: Fewer than two vectors of either side were taken in for a distance, or none for a score.
        """
        values = {}
        for name in self._metrics:
            if METRICS[name].kind is Kind.INCEPTION_SCORE and name in self._predictions:
                values[name] = self._predictions[name].score()
            elif {(name, False), (name, True)} <= set(self._moments):
                values[name] = frechet_distance(self._moments[name, False], self._moments[name, True])
            else:
                raise ValueError(f"{name}: got no clips of one side, expected at least two of each")
        return values

    def _features(self, names: Collection[str], clips: Sequence[NDArray[np.uint8]]) -> dict[str, NDArray[np.float32]]:
        """By name, [vectors, D] of all clips."""
        at_once = self._measures.clips_at_once(len(clips[0]))
        parts = [
            self._measures.features(names, clips[first : first + at_once]) for first in range(0, len(clips), at_once)
        ]
        return {name: np.concatenate([vectors for part in parts for vectors in part[name]]) for name in names}


def _set_of(metric: str) -> str:
    """The set of features that a metric is taken of."""
    name = METRICS[metric].features
    assert name is not None, f"{metric} is of pairs"
    return name

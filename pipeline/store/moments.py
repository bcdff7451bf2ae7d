"""Per-channel moments that merge: the normalisation of a store, summed shard by shard in float64."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelMoments:
    """Count, mean and summed squared deviation of each channel.

    Centred moments, merged pairwise (Chan, Golub, LeVeque 1979): sums of squares would lose the variance of a channel
    whose mean is large.
    """

    count: int
    """Values of one channel: clips times tokens."""
    mean: NDArray[np.float64]
    """[K]."""
    m2: NDArray[np.float64]
    """[K], summed squared deviations from the mean."""
    nan_count: int = 0
    """NaN values met in clips that were rejected for them; not part of the moments."""
    inf_count: int = 0

    @classmethod
    def empty(cls, channels: int) -> Self:
        """Moments of nothing."""
        return cls(count=0, mean=np.zeros(channels), m2=np.zeros(channels))

    @classmethod
    def of(cls, values: NDArray[np.floating]) -> Self:
        """Moments of finite values [..., K]."""
        rows = values.reshape(-1, values.shape[-1]).astype(np.float64)
        mean = rows.mean(axis=0)
        return cls(count=len(rows), mean=mean, m2=np.square(rows - mean).sum(axis=0))

    @classmethod
    def nonfinite(cls, values: NDArray[np.floating]) -> Self:
        """Only the NaN and Inf counts of values [..., K]."""
        channels = values.shape[-1]
        return cls(
            count=0,
            mean=np.zeros(channels),
            m2=np.zeros(channels),
            nan_count=int(np.isnan(values).sum()),
            inf_count=int(np.isinf(values).sum()),
        )

    def merge(self, other: Self) -> Self:
        """Moments of both sets together."""
        count = self.count + other.count
        share = other.count / count if count else 0.0
        delta = other.mean - self.mean
        return type(self)(
            count=count,
            mean=self.mean + delta * share,
            m2=self.m2 + other.m2 + np.square(delta) * (self.count * share),
            nan_count=self.nan_count + other.nan_count,
            inf_count=self.inf_count + other.inf_count,
        )

    @classmethod
    def merge_all(cls, parts: Iterable[Self], channels: int) -> Self:
        """Moments of all parts, merged in the order given: the same order gives the same bits."""
        merged = cls.empty(channels)
        for part in parts:
            merged = merged.merge(part)
        return merged

    @property
    def std(self) -> NDArray[np.float64]:
        """[K], population standard deviation; zero where nothing was counted."""
        deviation: NDArray[np.float64] = np.sqrt(self.m2 / max(self.count, 1))
        return deviation

    def to_json(self) -> dict[str, object]:
        """JSON-ready values; floats survive exactly."""
        return {
            "count": self.count,
            "mean": self.mean.tolist(),
            "m2": self.m2.tolist(),
            "nan_count": self.nan_count,
            "inf_count": self.inf_count,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Self:
        """Read `to_json`'s value."""
        return cls(
            count=int(str(value["count"])),
            mean=np.asarray(value["mean"], np.float64),
            m2=np.asarray(value["m2"], np.float64),
            nan_count=int(str(value["nan_count"])),
            inf_count=int(str(value["inf_count"])),
        )

    def normalisation(self) -> dict[str, object]:
        """What a store's reader needs: mean and std of each channel, with counts."""
        return {
            "count": self.count,
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "nan_count": self.nan_count,
            "inf_count": self.inf_count,
        }

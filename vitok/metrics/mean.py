"""Mean and spread of a number per clip, as a state that merges."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class MeanState:
    """Count, mean and summed squared deviation of the values of a metric such as PSNR, in that metric's unit.

    Merged pairwise (Chan, Golub, LeVeque 1979): any split merges to the same values.
    """

    count: int
    mean: float
    m2: float
    """Summed squared deviations from the mean."""

    @classmethod
    def empty(cls) -> Self:
        """The state of nothing."""
        return cls(count=0, mean=0.0, m2=0.0)

    @classmethod
    def of(cls, values: NDArray[np.floating]) -> Self:
        """State of values [N], one a clip.

        Raises:
            ValueError: The values are not one axis of finite numbers.
        """
        if values.ndim != 1 or not np.isfinite(values).all():
            bad = np.count_nonzero(~np.isfinite(values))
            raise ValueError(
                f"values: got shape {values.shape} with {bad} not finite, expected one finite number a clip"
            )
        if not len(values):
            return cls.empty()
        numbers = values.astype(np.float64)
        mean = numbers.mean()
        return cls(count=len(numbers), mean=float(mean), m2=float(np.square(numbers - mean).sum()))

    def merge(self, other: Self) -> Self:
        """State of both sets together."""
        count = self.count + other.count
        share = other.count / count if count else 0.0
        delta = other.mean - self.mean
        return type(self)(
            count=count,
            mean=self.mean + delta * share,
            m2=self.m2 + other.m2 + delta * delta * self.count * share,
        )

    @property
    def std(self) -> float:
        """Population standard deviation; zero where nothing was counted."""
        return math.sqrt(self.m2 / max(self.count, 1))

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Arrays by name, for a file; they survive exactly."""
        return {"count": np.asarray(self.count, np.int64), "mean": np.asarray(self.mean), "m2": np.asarray(self.m2)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Self:
        """Read `to_arrays`' arrays."""
        return cls(count=int(arrays["count"].item()), mean=float(arrays["mean"].item()), m2=float(arrays["m2"].item()))

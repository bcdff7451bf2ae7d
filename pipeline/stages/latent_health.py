"""What latents are like, channel by channel: moments, correlation, KL and NaN counts, as sums that merge.

Axes: N tokens, K latent channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, cast

import numpy as np
from numpy.typing import NDArray

from vitok.metrics.frechet import FeatureMoments

DEAD_VARIANCE = 0.01
"""A channel whose posterior mean varies by less over the data is dead (Burda et al., arXiv:1509.00519, section 5.2)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentSums:
    """Sums over the latents of clips, in float64."""

    moments: FeatureMoments
    """Of posterior means, a token a sample of K features."""
    kl: NDArray[np.float64] | None
    """[K], summed over tokens, in nats; None: no variance was learned."""
    nan_count: int = 0
    """Means and log-variances, of clips that are in no other sum."""
    inf_count: int = 0

    @classmethod
    def of(cls, mean: NDArray[np.float32], logvar: NDArray[np.float32] | None) -> Self:
        """Sums of one clip's posterior [..., K] each; of one that is not finite only its NaN and Inf are counted.

        KL of a token and channel to the standard Gaussian: 0.5 (mean^2 + variance - 1 - logvar) (arXiv:1312.6114,
        appendix B).
        """
        channels = mean.shape[-1]
        z = mean.reshape(-1, channels).astype(np.float64)
        log_variance = None if logvar is None else logvar.reshape(-1, channels).astype(np.float64)
        values = [z]
        if log_variance is not None:
            with np.errstate(over="ignore"):
                values.append(np.where(np.isinf(np.exp(log_variance)), np.inf, log_variance))
        if not all(np.isfinite(each).all() for each in values):
            return cls(
                moments=FeatureMoments.empty(channels),
                kl=None if log_variance is None else np.zeros(channels),
                nan_count=sum(int(np.isnan(each).sum()) for each in values),
                inf_count=sum(int(np.isinf(each).sum()) for each in values),
            )
        kl = None
        if log_variance is not None:
            kl = 0.5 * (z * z + np.exp(log_variance) - 1.0 - log_variance).sum(axis=0)
        return cls(moments=FeatureMoments.of(z), kl=kl)

    def merge(self, other: Self) -> Self:
        """Sums of both sets together."""
        return type(self)(
            moments=self.moments.merge(other.moments),
            kl=None if self.kl is None or other.kl is None else self.kl + other.kl,
            nan_count=self.nan_count + other.nan_count,
            inf_count=self.inf_count + other.inf_count,
        )

    def to_json(self) -> dict[str, object]:
        """JSON-ready values; floats survive exactly."""
        return {
            "count": self.moments.count,
            "mean": self.moments.mean.tolist(),
            "scatter": self.moments.scatter.tolist(),
            "kl": None if self.kl is None else self.kl.tolist(),
            "nan_count": self.nan_count,
            "inf_count": self.inf_count,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Self:
        """Read `to_json`'s value."""
        return cls(
            moments=FeatureMoments(
                count=cast(int, value["count"]),
                mean=np.asarray(value["mean"], np.float64),
                scatter=np.asarray(value["scatter"], np.float64),
            ),
            kl=None if value["kl"] is None else np.asarray(value["kl"], np.float64),
            nan_count=cast(int, value["nan_count"]),
            inf_count=cast(int, value["inf_count"]),
        )

    def health(self) -> dict[str, object]:
        """By channel, JSON-ready: mean, std, KL a token, correlation (null: a channel that never varies), dead ones."""
        tokens = max(self.moments.count, 1)
        covariance = self.moments.scatter / tokens
        variance = covariance.diagonal()
        std = np.sqrt(variance)
        with np.errstate(divide="ignore", invalid="ignore"):
            correlation = covariance / np.outer(std, std)
        return {
            "tokens": self.moments.count,
            "mean": self.moments.mean.tolist(),
            "std": std.tolist(),
            "kl": None if self.kl is None else (self.kl / tokens).tolist(),
            "correlation": [[value if np.isfinite(value) else None for value in row] for row in correlation.tolist()],
            "dead": np.flatnonzero(variance < DEAD_VARIANCE).tolist() if self.moments.count else [],
            "nan_count": self.nan_count,
            "inf_count": self.inf_count,
        }

"""Frechet distance of two sets of features, from moments that merge: FID on Inception's, FVD on I3D's.

Axes: N samples, D features.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureMoments:
    """Count, mean and scatter of feature vectors, in float64.

    Centred, merged pairwise (Chan, Golub, LeVeque 1979): sums of outer products would lose the covariance of features
    whose mean is large.
    """

    count: int
    mean: NDArray[np.float64]
    """[D]."""
    scatter: NDArray[np.float64]
    """[D, D], summed outer products of the deviations from the mean."""

    @classmethod
    def empty(cls, features: int) -> Self:
        """Moments of nothing."""
        return cls(count=0, mean=np.zeros(features), scatter=np.zeros((features, features)))

    @classmethod
    def of(cls, features: NDArray[np.floating]) -> Self:
        """Moments of features [N, D].

        Raises:
            ValueError: The features are not two axes of finite numbers.
        """
        if features.ndim != 2 or not np.isfinite(features).all():
            bad = np.count_nonzero(~np.isfinite(features))
            raise ValueError(
                f"features: got shape {features.shape} with {bad} values not finite, expected finite [N, D]"
            )
        if not len(features):
            return cls.empty(features.shape[1])
        rows = features.astype(np.float64)
        mean = rows.mean(axis=0)
        deviations = rows - mean
        return cls(count=len(rows), mean=mean, scatter=deviations.T @ deviations)

    def merge(self, other: Self) -> Self:
        """Moments of both sets together.

        Raises:
            ValueError: The two have another number of features.
        """
        if self.mean.shape != other.mean.shape:
            raise ValueError(f"features: got moments of {len(self.mean)} and of {len(other.mean)}, expected one number")
        count = self.count + other.count
        share = other.count / count if count else 0.0
        delta = other.mean - self.mean
        return type(self)(
            count=count,
            mean=self.mean + delta * share,
            scatter=self.scatter + other.scatter + np.outer(delta, delta * (self.count * share)),
        )

    def covariance(self) -> NDArray[np.float64]:
        """[D, D], unbiased: scatter / (N - 1), as numpy.cov and every public FID have it.

        Raises:
            ValueError: There are fewer than two samples.
        """
        if self.count < 2:
            raise ValueError(f"features: got {self.count} samples, expected at least 2, for a covariance")
        covariance: NDArray[np.float64] = self.scatter / (self.count - 1)
        return covariance

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Arrays by name, for a file; they survive exactly."""
        return {"count": np.asarray(self.count, np.int64), "mean": self.mean, "scatter": self.scatter}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Self:
        """Read `to_arrays`' arrays."""
        return cls(
            count=int(arrays["count"].item()),
            mean=arrays["mean"].astype(np.float64),
            scatter=arrays["scatter"].astype(np.float64),
        )


def frechet_distance(reference: FeatureMoments, candidate: FeatureMoments) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of the Gaussians with these moments (Dowson & Landau 1982).

    FID (Heusel et al., arXiv:1706.08500) on Inception's features, FVD (Unterthiner et al., arXiv:1812.01717) on I3D's
    logits. The root's trace is the sum of the singular values of R1^T R2 with S = R R^T: it needs no root of a
    product that is not symmetric, and is exact where there are fewer samples than features. Equals torch-fidelity
    0.4.0 and torchmetrics 1.9, which sum the roots of the eigenvalues of S1 S2, but for their rounding of zeros (34
    samples of 2048 features: 2e-6 of the distance). pytorch-fid and the v1 code of ViTok take scipy's sqrtm, and where
    it is not finite add 1e-6 to the covariances' diagonals, which this never does.

    Args:
        reference: Moments of at least two samples.
        candidate: The same number of features.

    Returns:
        At least 0, in squared units of the features.

    Raises:
        ValueError: Fewer than two samples, or another number of features.
    """
    if reference.mean.shape != candidate.mean.shape:
        raise ValueError(
            f"features: got moments of {len(reference.mean)} and of {len(candidate.mean)}, expected one number"
        )
    covariances = reference.covariance(), candidate.covariance()
    roots = [_root(covariance) for covariance in covariances]
    trace_of_root = np.linalg.svd(roots[0].T @ roots[1], compute_uv=False).sum()
    difference = reference.mean - candidate.mean
    distance = difference @ difference + sum(np.trace(covariance) for covariance in covariances) - 2 * trace_of_root
    return max(float(distance), 0.0)


def _root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """R [D, rank] with R R^T the covariance."""
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    # Below this an eigenvalue is the rounding of a zero; its root would be 1e8 times larger than its error.
    noise = len(eigenvalues) * np.finfo(np.float64).eps * max(eigenvalues[-1], 0.0)
    kept = eigenvalues > noise
    root: NDArray[np.float64] = eigenvectors[:, kept] * np.sqrt(eigenvalues[kept])
    return root

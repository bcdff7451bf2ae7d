"""The Frechet distance: laws, and equality with the public formula."""

import numpy as np
import pytest
import torch

from vitok.metrics.frechet import FeatureMoments, frechet_distance

WIDTH = 24


def features(samples, seed=0, *, rank=WIDTH, offset=0.0):
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(WIDTH, WIDTH))[:rank]
    return generator.normal(size=(samples, rank)) @ mixing * (1 + seed) + offset


def by_eigenvalues(first, second):
    """The formula of torch-fidelity 0.4.0 and torchmetrics 1.9."""
    covariances = [np.cov(rows, rowvar=False) for rows in (first, second)]
    roots = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).astype(complex)).real.sum()
    difference = first.mean(axis=0) - second.mean(axis=0)
    return difference @ difference + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * roots


CASES = {
    "many samples": (features(500), features(400, 1, offset=0.3)),
    "fewer samples than features": (features(10), features(12, 1, offset=0.3)),
    "features in a plane": (features(300, rank=2), features(300, 1, rank=2)),
    "one set in a plane": (features(300, rank=2), features(300, 1)),
    "large means": (features(300, offset=1000.0), features(300, 1, offset=1001.0)),
}


def distance(first, second):
    return frechet_distance(FeatureMoments.of(first), FeatureMoments.of(second))


@pytest.mark.parametrize("case", CASES)
def test_equals_the_public_formula(case):
    assert distance(*CASES[case]) == pytest.approx(by_eigenvalues(*CASES[case]), rel=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_equals_torchmetrics(case):
    fid = pytest.importorskip("torchmetrics.image.fid")
    tensors = [torch.from_numpy(rows) for rows in CASES[case]]
    statistics = [part for rows in tensors for part in (rows.mean(dim=0), rows.T.cov())]
    assert distance(*CASES[case]) == pytest.approx(fid._compute_fid(*statistics).item(), rel=1e-6)


def test_far_fewer_samples_than_features_lose_nothing():
    """tr (S1 S2)^(1/2) is also the sum of the singular values of X1 X2^T, which has no null space to round in."""
    first, second = (np.random.default_rng(seed).normal(size=(20, 600)) ** 2 * (1 + seed) for seed in range(2))
    centred = [(rows - rows.mean(axis=0)) / np.sqrt(19) for rows in (first, second)]
    difference = first.mean(axis=0) - second.mean(axis=0)
    root = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    expected = difference @ difference + sum(np.square(rows).sum() for rows in centred) - 2 * root
    assert distance(first, second) == pytest.approx(expected, rel=1e-9)
    assert by_eigenvalues(first, second) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_is_symmetric_and_indifferent_to_rotation_and_shift(case):
    first, second = CASES[case]
    rotation = np.linalg.qr(np.random.default_rng(3).normal(size=(WIDTH, WIDTH)))[0]
    expected = distance(first, second)
    assert distance(second, first) == pytest.approx(expected, rel=1e-9)
    assert distance(first @ rotation + 5, second @ rotation + 5) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_a_set_is_at_distance_zero_from_itself_and_never_below(case):
    first, _ = CASES[case]
    assert 0.0 <= distance(first, first) < 1e-9 * np.square(first).sum()


@pytest.mark.parametrize("shards", [1, 2, 7])
def test_any_split_over_workers_gives_the_same_distance(shards):
    expected = distance(*CASES["large means"])
    merged = []
    for rows in CASES["large means"]:
        state = FeatureMoments.empty(WIDTH)
        for part in np.array_split(rows, shards)[::-1]:
            state = state.merge(FeatureMoments.of(part))
        merged.append(state)
    assert frechet_distance(*merged) == pytest.approx(expected, rel=1e-9)


def test_of_diagonal_gaussians_it_is_known():
    """sum (m1 - m2)^2 + (s1 - s2)^2, of samples made to have exactly these moments."""
    corners = np.array([[x, y] for x in (-1, 1) for y in (-1, 1)]) * np.sqrt(3 / 4)
    assert distance(corners * [2, 5] + [1, 0], corners * [3, 1] + [0, 4]) == pytest.approx(1 + 16 + 1 + 16)


def test_covariance_is_numpys():
    rows = features(50)
    moments = FeatureMoments.of(rows.astype(np.float32))
    np.testing.assert_allclose(moments.covariance(), np.cov(rows.astype(np.float32), rowvar=False), rtol=1e-5)
    assert moments.scatter.dtype == np.float64


@pytest.mark.parametrize("samples", [0, 1])
def test_too_few_samples_are_refused(samples):
    with pytest.raises(ValueError, match=f"got {samples} samples, expected at least 2"):
        distance(features(5), features(5)[:samples])


def test_another_number_of_features_is_refused():
    with pytest.raises(ValueError, match="moments of 24 and of 3"):
        distance(features(5), features(5)[:, :3])


def test_features_of_three_axes_are_refused():
    with pytest.raises(ValueError, match=r"got shape \(2, 3, 4\)"):
        FeatureMoments.of(np.zeros((2, 3, 4)))

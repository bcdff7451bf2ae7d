"""Sums over latents: those of all tokens at once, however they are merged."""

import json

import numpy as np
import pytest

from pipeline.stages.latent_health import LatentSums


def posteriors(count, channels=5):
    generator = np.random.default_rng(0)
    mean = generator.normal(3, 2, (count, 2, 4, 4, channels)).astype(np.float32)
    mean[..., 1] = mean[..., 0] * -0.5 + 1
    mean[..., 2] = 7.0
    return mean, generator.normal(-2, 1, mean.shape).astype(np.float32)


def merged(mean, logvar):
    total = None
    for part in zip(mean, logvar, strict=True):
        found = LatentSums.of(*part)
        total = found if total is None else total.merge(found)
    return total


def test_any_merge_gives_the_sums_of_all():
    mean, logvar = posteriors(6)
    health = LatentSums.from_json(json.loads(json.dumps(merged(mean, logvar).to_json()))).health()
    tokens, log_variance = (part.reshape(-1, 5).astype(np.float64) for part in (mean, logvar))
    np.testing.assert_allclose(health["mean"], tokens.mean(0), rtol=1e-12)
    np.testing.assert_allclose(health["std"], tokens.std(0), rtol=1e-9, atol=1e-12)
    kl = 0.5 * (tokens**2 + np.exp(log_variance) - 1 - log_variance)
    np.testing.assert_allclose(health["kl"], kl.mean(0), rtol=1e-12)
    assert health["tokens"] == len(tokens)
    assert health["dead"] == [2]
    correlation = np.array(health["correlation"], np.float64)
    assert np.isnan(correlation[2]).all()
    kept = [0, 1, 3, 4]
    np.testing.assert_allclose(correlation[np.ix_(kept, kept)], np.corrcoef(tokens[:, kept].T), rtol=1e-9, atol=1e-9)
    assert correlation[0, 1] == pytest.approx(-1.0)


def test_latents_that_are_not_finite_are_counted_and_nothing_else():
    mean, logvar = posteriors(3)
    sound = merged(mean[:2], logvar[:2])
    mean[2, 0, 0, 0, 0], mean[2, 0, 0, 0, 1:3] = np.nan, np.inf
    spoilt = merged(mean, logvar)
    assert (spoilt.nan_count, spoilt.inf_count) == (1, 2)
    assert spoilt.to_json() == sound.to_json() | {"nan_count": 1, "inf_count": 2}


@pytest.mark.parametrize(("value", "counts"), [(np.nan, (1, 0)), (np.inf, (0, 1)), (-np.inf, (0, 1)), (1000.0, (0, 1))])
def test_a_variance_that_is_not_finite_is_counted_and_spoils_nothing(value, counts):
    mean, logvar = posteriors(3)
    sound = merged(mean[:2], logvar[:2])
    logvar[2, 1, 2, 3, 4] = value
    spoilt = merged(mean, logvar)
    assert (spoilt.nan_count, spoilt.inf_count) == counts
    assert json.dumps(spoilt.to_json() | {"nan_count": 0, "inf_count": 0}, allow_nan=False) == json.dumps(
        sound.to_json()
    )


def test_of_no_latent_no_channel_is_dead():
    mean, logvar = posteriors(1)
    mean[..., 0] = np.nan
    health = merged(mean, logvar).health()
    assert (health["tokens"], health["dead"], health["nan_count"]) == (0, [], 32)
    assert LatentSums.of(np.zeros((4, 2), np.float32), None).health()["dead"] == [0, 1]


def test_without_a_variance_there_is_no_divergence():
    (mean,), _ = posteriors(1)
    assert LatentSums.of(mean, None).health()["kl"] is None

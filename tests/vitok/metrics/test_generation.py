"""Scores of generated clips: those of all features at once, whatever the batches."""

import pytest
import torch

from vitok.metrics.features import frame_features
from vitok.metrics.frechet import FeatureMoments, frechet_distance
from vitok.metrics.generation import GENERATION_METRICS, GenerationScores
from vitok.networks.inception import InceptionV3


def clips(seed):
    return torch.randint(0, 256, (3, 1, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_pairs_are_no_business_of_theirs():
    assert set(GENERATION_METRICS) == {
        "fid_2015",
        "fid_torchvision",
        "inception_score_2015",
        "inception_score_torchvision",
        "fvd",
    }


def test_any_batches_make_the_distance_of_all(need_weights):
    need_weights("inception_2015")
    scores = GenerationScores(("fid_2015",), device=torch.device("cpu"))
    real, made = clips(0), clips(1)
    for part in (real[:1], real[1:]):
        scores.add(part.numpy(), generated=False)
    with pytest.raises(ValueError, match="fid_2015: got no clips of one side"):
        scores.values()
    for part in (made[:2], made[2:]):
        scores.add(part.numpy(), generated=True)
    network = InceptionV3.load("2015")
    moments = [FeatureMoments.of(frame_features(network, part).numpy()) for part in (real, made)]
    assert scores.values()["fid_2015"] == pytest.approx(frechet_distance(*moments), rel=1e-5)

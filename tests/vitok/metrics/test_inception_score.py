"""Inception Score: bounds, and equality with the public formula."""

import numpy as np
import pytest
import torch

from vitok.metrics.inception_score import InceptionScoreState

CLASSES = 20


@pytest.fixture(scope="module")
def logits():
    return np.random.default_rng(0).normal(size=(300, CLASSES)) * 4


def in_one_split(logits):
    """The formula of torch-fidelity 0.4.0 and torchmetrics 1.9, with one split."""
    logits = torch.from_numpy(logits).double()
    p, log_p = logits.softmax(dim=1), logits.log_softmax(dim=1)
    return (p * (log_p - p.mean(dim=0, keepdim=True).log())).sum(dim=1).mean().exp().item()


def test_equals_the_public_formula(logits):
    assert InceptionScoreState.of(logits).score() == pytest.approx(in_one_split(logits), rel=1e-9)


@pytest.mark.filterwarnings("ignore:Metric `InceptionScore`:UserWarning")
@pytest.mark.filterwarnings("ignore:std\\(\\):UserWarning")
def test_equals_torchmetrics(logits):
    inception = pytest.importorskip("torchmetrics.image.inception")

    class Pass(torch.nn.Module):
        def forward(self, rows):
            return rows

    metric = inception.InceptionScore(feature=Pass(), splits=1)
    metric.update(torch.from_numpy(logits))
    mean, _ = metric.compute()
    assert InceptionScoreState.of(logits).score() == pytest.approx(mean.item(), rel=1e-6)


def test_a_shift_of_the_logits_changes_nothing(logits):
    shifted = InceptionScoreState.of(logits + 1e3).score()
    assert shifted == pytest.approx(InceptionScoreState.of(logits).score(), rel=1e-9)


@pytest.mark.parametrize("certainty", [50.0, 1e4])
def test_sure_and_even_predictions_score_the_number_of_classes(certainty):
    assert InceptionScoreState.of(np.eye(CLASSES) * certainty).score() == pytest.approx(CLASSES)


def test_equal_predictions_score_one(logits):
    assert InceptionScoreState.of(np.repeat(logits[:1], 9, axis=0)).score() == pytest.approx(1.0)


def test_no_sample_has_no_score():
    with pytest.raises(ValueError, match="got no sample"):
        InceptionScoreState.empty(CLASSES).score()


def test_logits_of_one_axis_are_refused():
    with pytest.raises(ValueError, match=r"got shape \(20,\)"):
        InceptionScoreState.of(np.zeros(CLASSES))

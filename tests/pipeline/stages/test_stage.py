"""A reject becomes a row that says what, where, why and whether to try again; steps add up."""

import time

import pytest

from pipeline.media.reject import RejectClip
from pipeline.stages.stage import StepClock, reject_clip, reject_row
from schemas.outcome import Reason, Stage, outcome_of


@pytest.mark.parametrize("reason", Reason)
def test_a_row_says_what_the_reject_said_and_whether_to_try_again(reason):
    row = reject_row(
        RejectClip(reason, "because"),
        key="a-1",
        media_uri="/media/a.mp4",
        start_seconds=0.5,
        end_seconds=1.0,
        stage=Stage.DECODE,
    )
    assert (row.outcome, row.stage, row.reason, row.message) == (outcome_of(reason), Stage.DECODE, reason, "because")
    assert row.transient == (reason in (Reason.UNREADABLE, Reason.DECODER_TIMEOUT))
    assert row.attempts == 1


def test_a_row_of_a_decoded_clip_names_its_media_and_span(make_clip):
    metadata = make_clip(4).metadata
    row = reject_clip(RejectClip(Reason.NONFINITE_LATENT, ""), metadata, Stage.ENCODE)
    assert (row.key, row.media_uri) == ("clip-4", "/media/1.mp4")
    assert (row.start_seconds, row.end_seconds) == (0.5, 1.0)


def test_time_in_a_step_adds_up_also_when_it_fails():
    clock = StepClock()
    with clock.step("decode"):
        time.sleep(0.01)

    def fail():
        with clock.step("decode"):
            time.sleep(0.01)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with clock.step("write"):
        pass
    assert list(clock.seconds) == ["decode", "write"]
    assert clock.seconds["decode"] >= 0.02
    assert 0 <= clock.seconds["write"] < 0.01

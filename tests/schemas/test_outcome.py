"""Outcomes are plain words on disk, and only known reasons may be tried again."""

import pyarrow as pa
import pytest

from schemas.outcome import FILTER_REASONS, OUTCOME_SCHEMA, TRANSIENT_REASONS, Outcome, Reason, Stage, outcome_of


@pytest.mark.parametrize("words", [Outcome, Stage, Reason])
def test_words_survive_an_arrow_column_as_their_values(words):
    column = pa.array(list(words), pa.string()).to_pylist()
    assert [words(value) for value in column] == list(words)
    assert all(value == value.lower() and value.isidentifier() for value in column)


def test_only_a_failing_file_system_and_a_busy_machine_are_worth_another_attempt():
    assert frozenset({Reason.UNREADABLE, Reason.DECODER_TIMEOUT}) == TRANSIENT_REASONS


def test_what_is_filtered_is_sound_and_not_tried_again():
    assert not FILTER_REASONS & TRANSIENT_REASONS
    assert {outcome_of(reason) for reason in FILTER_REASONS} == {Outcome.FILTERED}
    assert {outcome_of(reason) for reason in set(Reason) - FILTER_REASONS} == {Outcome.REJECTED}


def test_only_the_times_of_an_outcome_may_be_null():
    assert [field.name for field in OUTCOME_SCHEMA if field.nullable] == ["start_seconds", "end_seconds"]

"""Paths of shards never collide, and a difference is always named."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.metadata import FORMAT_VERSION, SHARDS_PER_PLAN_FILE, check_format, clips_file, differences, ledger_file

INDICES = st.integers(0, 10**8 - 1)
DOCUMENTS = st.recursive(
    st.dictionaries(st.text("abc", min_size=1, max_size=2), st.integers() | st.text(max_size=3) | st.none()),
    lambda children: st.dictionaries(st.text("abc", min_size=1, max_size=2), children),
    max_leaves=8,
)


@given(INDICES, INDICES)
def test_different_shards_have_different_places(first, second):
    assert (ledger_file(first) == ledger_file(second)) == (first == second)
    assert (clips_file(first) == clips_file(second)) == (first == second)


@given(st.lists(INDICES, min_size=2, max_size=5))
def test_ledger_paths_sort_as_their_shards_do(indices):
    assert sorted(indices, key=ledger_file) == sorted(indices)


def test_a_plan_file_is_full_before_the_next_begins():
    assert clips_file(0) == ("plan/clips-00000.parquet", 0)
    assert clips_file(SHARDS_PER_PLAN_FILE - 1) == ("plan/clips-00000.parquet", SHARDS_PER_PLAN_FILE - 1)
    assert clips_file(SHARDS_PER_PLAN_FILE) == ("plan/clips-00001.parquet", 0)


@given(DOCUMENTS, DOCUMENTS)
def test_documents_differ_exactly_where_there_is_a_line(first, second):
    assert (differences(first, second) == []) == (first == second)
    assert differences(first, copy.deepcopy(first)) == []


@given(DOCUMENTS, DOCUMENTS)
def test_differences_are_as_many_from_either_side(first, second):
    assert len(differences(first, second)) == len(differences(second, first))


def test_a_line_names_the_leaf_and_both_values():
    old = {"model": {"width": 192, "depth": 2}, "seed": 0}
    new = {"model": {"width": 256, "depth": 2}, "fps": "8"}
    assert differences(old, new) == ["fps: absent, now '8'", "model.width: 192, now 256", "seed: 0, now absent"]


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"format": "vitok-clips"},
        {"format": "vitok-clips", "format_version": FORMAT_VERSION + 1},
        {"format": "vitok-clips", "format_version": str(FORMAT_VERSION)},
        {"format": "vitok-latents", "format_version": FORMAT_VERSION},
    ],
)
def test_another_format_or_version_is_refused_with_the_place(document):
    with pytest.raises(ValueError, match=r"here/store\.json: format .* expected 'vitok-clips' version 1"):
        check_format(document, format_name="vitok-clips", where="here/store.json")


def test_the_own_format_passes():
    check_format({"format": "vitok-clips", "format_version": 1}, format_name="vitok-clips", where="here")

"""Equal values are equal bytes."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.store.documents import canonical_json, fingerprint, read_json, write_json
from pipeline.store.files import Folder

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)


def turned_round(value):
    """The same value with the keys of every object in the other order."""
    if isinstance(value, dict):
        return {key: turned_round(value[key]) for key in reversed(value)}
    return [turned_round(entry) for entry in value] if isinstance(value, list) else value


@given(VALUES)
def test_the_order_of_keys_changes_no_byte(value):
    assert canonical_json(turned_round(value)) == canonical_json(value)
    assert fingerprint(turned_round(value)) == fingerprint(value)


@given(VALUES)
def test_a_value_comes_back_exactly(value):
    assert json.loads(canonical_json(value)) == value


@given(st.dictionaries(st.text(), st.integers()), st.text(), st.integers())
def test_another_value_has_another_fingerprint(value, key, number):
    other = value | {key: number}
    assert (fingerprint(other) == fingerprint(value)) == (other == value)


def test_tuples_and_lists_are_one_value():
    assert fingerprint({"columns": ("mean", "logvar")}) == fingerprint({"columns": ["mean", "logvar"]})


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_what_json_cannot_say_is_refused(number):
    with pytest.raises(ValueError, match="Out of range float"):
        canonical_json({"psnr": [number]})


def test_the_golden_bytes():
    # Plans of earlier versions are found by their hash.
    value = {"b": [1, 0.1], "a": "é"}
    assert canonical_json(value) == '{\n "a": "é",\n "b": [\n  1,\n  0.1\n ]\n}\n'.encode()
    assert fingerprint(value) == hashlib.sha256(canonical_json(value)).hexdigest()


def test_files_hold_objects(tmp_path):
    folder = Folder(str(tmp_path))
    record = write_json(folder, "a/b.json", {"x": 1})
    assert read_json(folder, "a/b.json") == {"x": 1}
    assert record.size_bytes == len(canonical_json({"x": 1}))
    write_json(folder, "list.json", [1])
    with pytest.raises(ValueError, match=r"list\.json: holds list, expected a JSON object"):
        read_json(folder, "list.json")
    with pytest.raises(FileNotFoundError):
        read_json(folder, "absent.json")

"""Weights are read from where they belong, and only if they are the right ones."""

import dataclasses
import hashlib
import io
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vitok.networks.weights import (
    FOLDER_VARIABLE,
    WEIGHTS,
    MissingWeightsError,
    WeightsFile,
    find_weights,
    load_weights,
    read_weights,
    tensor_digest,
    weights_folder,
)

TENSORS = {"b.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([1.5, -0.0], dtype=torch.float16)}


def pth(path, content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(buffer.getvalue())
    return WeightsFile(
        name=path.name,
        origin="a project, version 1",
        size_bytes=path.stat().st_size,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def converted(path, tensors, metadata=None):
    save_file(tensors, path, metadata=metadata)
    return WeightsFile(
        name=path.name, origin="a project, version 1", size_bytes=path.stat().st_size, sha256=tensor_digest(tensors)
    )


@pytest.mark.parametrize(("write", "suffix"), [(pth, ".pth"), (converted, ".safetensors")])
def test_tensors_survive(write, suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    tensors = read_weights(path, write(path, TENSORS))
    assert set(tensors) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


@pytest.mark.parametrize(("write", "suffix"), [(pth, ".pth"), (converted, ".safetensors")])
def test_one_changed_bit_is_found(write, suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    file = write(path, TENSORS)
    content = bytearray(path.read_bytes())
    at = content.index(TENSORS["b.weight"].numpy().tobytes()) + 5
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"got sha256 .* expected .* from a project, version 1"):
        read_weights(path, file)


def test_a_cut_file_is_found(tmp_path):
    path = tmp_path / "weights.safetensors"
    file = converted(path, TENSORS)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"weights\.safetensors: damaged"):
        read_weights(path, file)


def test_code_in_a_file_is_not_run(tmp_path):
    path = tmp_path / "weights.pth"
    file = pth(path, {"a": Path("/")})  # an object that is made by a call
    with pytest.raises(ValueError, match="holds something else than tensors"):
        read_weights(path, file)


def test_the_digest_of_tensors_is_that_of_their_contents_alone(tmp_path):
    path = tmp_path / "weights.safetensors"
    file = converted(path, dict(reversed(TENSORS.items())), metadata={"by": "another tool"})
    assert file.sha256 == tensor_digest(TENSORS)
    read_weights(path, file)
    others = [
        {**TENSORS, "b.weight": TENSORS["b.weight"].reshape(3, 2)},
        {**TENSORS, "b.weight": TENSORS["b.weight"].view(torch.int32)},
        {**TENSORS, "a.bias": -TENSORS["a.bias"]},
        {"b.weight": TENSORS["b.weight"], "a.biases": TENSORS["a.bias"]},
    ]
    assert len({tensor_digest(tensors) for tensors in [TENSORS, *others]}) == 5


@pytest.mark.parametrize("name", WEIGHTS)
def test_what_is_missing_is_named_with_its_origin_and_its_place(name, tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(MissingWeightsError) as error:
        load_weights(name)
    assert isinstance(error.value, FileNotFoundError)
    for part in (str(tmp_path), FOLDER_VARIABLE, *(file.name for file in WEIGHTS[name])):
        assert part in str(error.value)
    assert all(file.origin in str(error.value) for file in WEIGHTS[name])


def test_any_of_the_files_will_do_and_the_first_is_preferred(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    for file in reversed(WEIGHTS["vgg16"]):
        (tmp_path / file.name).touch()
        assert find_weights("vgg16") == (tmp_path / file.name, file)


def test_the_folder_is_the_variable_or_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(FOLDER_VARIABLE, "~/elsewhere")
    assert weights_folder() == tmp_path / "elsewhere"
    for unset in (lambda: monkeypatch.setenv(FOLDER_VARIABLE, ""), lambda: monkeypatch.delenv(FOLDER_VARIABLE)):
        unset()
        assert weights_folder() == tmp_path / ".cache" / "vitok" / "weights"


def test_published_names_carry_the_digest_they_are_checked_by():
    files = {file for choices in WEIGHTS.values() for file in choices}
    named = {file: re.fullmatch(r".*-([0-9a-f]{8})\.pth", file.name) for file in files}
    assert sum(match is not None for match in named.values()) == 3
    assert all(file.sha256.startswith(match[1]) for file, match in named.items() if match)
    assert all(re.fullmatch("[0-9a-f]{64}", file.sha256) for file in files)
    assert all(dataclasses.astuple(file)[1] for file in files)

"""Auto-encoders as folders: weights in safetensors, everything else in JSON.

<folder>/model.safetensors   every tensor of the state dict, by name
<folder>/config.json         written last: a folder without it is no checkpoint
    format           "vitok-autoencoder"
    format_version   1
    autoencoder      AutoEncoderConfig.to_json()
    fingerprint      `fingerprint` of config and weights; checked on loading
    training         how the weights came about, where the writer said so
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import fsspec
import torch
from fsspec.implementations.local import LocalFileSystem
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vitok.config import AutoEncoderConfig
from vitok.model.autoencoder import AutoEncoder

FORMAT = "vitok-autoencoder"
FORMAT_VERSION = 1
CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"


def fingerprint(model: AutoEncoder) -> str:
    """Identity of a model by content: sha256, in hex, of its config and of every tensor's name, dtype, shape and bytes.

    The same for equal models on whatever device; other for any other bit of a weight.
    """
    digest = hashlib.sha256(_canonical_json(model.config.to_json()))
    for name, tensor in sorted(_tensors(model).items()):
        dtype = str(tensor.dtype).removeprefix("torch.")
        digest.update(_canonical_json([name, dtype, list(tensor.shape)]))
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_checkpoint(folder: str, model: AutoEncoder, training: Mapping[str, object] | None = None) -> None:
    """Write a model to a folder, replacing a checkpoint that is there.

    Each file appears whole or not at all. A writer killed between the two leaves a folder that does not load.

    Args:
        folder: Local path or any address fsspec knows, such as "s3://bucket/run/step-1000".
        model: Its parameters may be on any device.
        training: JSON-ready record of how the weights came about.

    Raises:
        ValueError: The training record holds NaN or infinity.
        TypeError: The training record holds what JSON cannot.
    """
    description: dict[str, object] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "autoencoder": model.config.to_json(),
        "fingerprint": fingerprint(model),
    }
    if training is not None:
        description["training"] = dict(training)
    # Before any byte is written: a record that is no JSON must not cost the checkpoint that is there.
    config_bytes = json.dumps(description, indent=2, allow_nan=False).encode() + b"\n"
    filesystem, root = fsspec.url_to_fs(folder)
    _write(filesystem, f"{root}/{WEIGHTS_NAME}", save(_tensors(model)))
    _write(filesystem, f"{root}/{CONFIG_NAME}", config_bytes)


def load_checkpoint(folder: str) -> AutoEncoder:
    """Read a model, on the CPU and in the dtype it was saved in.

    Raises:
        FileNotFoundError: The folder holds no complete checkpoint.
        ValueError: It is of another format or version, or its tensors are not those its config asks for.
    """
    filesystem, root = fsspec.url_to_fs(folder)
    if not filesystem.exists(f"{root}/{CONFIG_NAME}"):
        raise FileNotFoundError(f"{folder}: no {CONFIG_NAME}, so no complete checkpoint")
    description = json.loads(filesystem.cat_file(f"{root}/{CONFIG_NAME}"))
    config = AutoEncoderConfig.from_json(_checked_description(description, folder))
    try:
        tensors = load(filesystem.cat_file(f"{root}/{WEIGHTS_NAME}"))
    except SafetensorError as error:
        raise ValueError(f"{folder}/{WEIGHTS_NAME}: damaged ({error})") from error
    with torch.device("meta"):  # no time spent on random weights that are replaced at once
        model = AutoEncoder(config)
    _check_shapes(tensors, model.state_dict(), folder)
    model.load_state_dict(tensors, assign=True)
    found = fingerprint(model)
    if found != description["fingerprint"]:
        raise ValueError(
            f"{folder}: the weights or the config were changed after saving: "
            f"fingerprint {found}, {CONFIG_NAME} says {description['fingerprint']}"
        )
    return model


def _checked_description(description: object, folder: str) -> Mapping[str, object]:
    """The auto-encoder's entry of a `config.json` that has passed every check."""
    where = f"{folder}/{CONFIG_NAME}"
    if not isinstance(description, dict):
        raise ValueError(f"{where}: got {type(description).__name__}, expected an object")
    for key, expected in (("format", FORMAT), ("format_version", FORMAT_VERSION)):
        if description.get(key) != expected:
            raise ValueError(f"{where}: {key} is {description.get(key)!r}, expected {expected!r}")
    required = {"format", "format_version", "autoencoder", "fingerprint"}
    if not required <= set(description) <= required | {"training"}:
        raise ValueError(
            f"{where}: missing keys {sorted(required - set(description))}, "
            f"unknown keys {sorted(set(description) - required - {'training'})}"
        )
    autoencoder = description["autoencoder"]
    if not isinstance(autoencoder, dict):
        raise ValueError(f"{where}: autoencoder is {autoencoder!r}, expected an object")
    return autoencoder


def _check_shapes(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], folder: str) -> None:
    other_shapes = [
        f"{name} is {tuple(found[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in sorted(set(found) & set(expected))
        if found[name].shape != expected[name].shape
    ]
    if set(found) != set(expected) or other_shapes:
        raise ValueError(
            f"{folder}/{WEIGHTS_NAME}: missing tensors {sorted(set(expected) - set(found))}, "
            f"unknown tensors {sorted(set(found) - set(expected))}, other shapes {other_shapes}"
        )


def _tensors(model: AutoEncoder) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}


def _canonical_json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _write(filesystem: fsspec.AbstractFileSystem, path: str, content: bytes) -> None:
    if not isinstance(filesystem, LocalFileSystem):
        filesystem.pipe_file(path, content)  # an object store shows an object when its upload is complete
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(target)

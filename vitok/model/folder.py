"""Networks as folders: weights in safetensors, everything else in JSON; what the JSON says is its owner's.

<folder>/model.safetensors   every tensor of the state dict, by name
<folder>/config.json         written last: a folder without it is no checkpoint. Always in it: format, format_version,
                             fingerprint
"""

import hashlib
import json
import os
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

import fsspec
import torch
from fsspec.implementations.local import LocalFileSystem
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"

_ALWAYS = frozenset({"format", "format_version", "fingerprint"})


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderFormat:
    """What a kind of network writes into its `config.json`."""

    name: str
    version: int
    """The one that is written."""
    required: Set[str]
    """Keys beside format, format_version and fingerprint."""
    optional: Mapping[int, Set[str]]
    """Further keys, by format version: the versions that are read."""


def fingerprint_of(identity: Mapping[str, object], module: nn.Module) -> str:
    """Identity by content: sha256, in hex, of a JSON-ready description and of every tensor's name, dtype, shape, bytes.

    The same for equal networks on whatever device; other for any other bit of a weight.
    """
    digest = hashlib.sha256(_canonical_json(identity))
    for name, tensor in sorted(tensors_of(module).items()):
        dtype = str(tensor.dtype).removeprefix("torch.")
        digest.update(_canonical_json([name, dtype, list(tensor.shape)]))
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """The state dict, detached, on the CPU, contiguous."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}


def write_folder(
    folder: str, folder_format: FolderFormat, description: Mapping[str, object], module: nn.Module
) -> None:
    """Write a network, replacing one that is there.

    Each file appears whole or not at all. A writer killed between the two leaves a folder that does not load.

    Args:
        folder: Local path or any address fsspec knows, such as "s3://bucket/run/step-1000".
        folder_format: Of the description.
        description: JSON-ready keys of `config.json` after format and format_version, "fingerprint" among them.
        module: Its parameters may be on any device.

    Raises:
        ValueError: The description holds NaN or infinity.
        TypeError: It holds what JSON cannot.
    """
    document = {"format": folder_format.name, "format_version": folder_format.version, **description}
    # Before any byte is written: a record that is no JSON must not cost the checkpoint that is there.
    config_bytes = json.dumps(document, indent=2, allow_nan=False).encode() + b"\n"
    filesystem, root = fsspec.url_to_fs(folder)
    _write(filesystem, f"{root}/{WEIGHTS_NAME}", save(tensors_of(module)))
    _write(filesystem, f"{root}/{CONFIG_NAME}", config_bytes)


def read_description(folder: str, folder_format: FolderFormat) -> Mapping[str, object]:
    """A `config.json` of a known version, with the keys it must have and no others. Reads no weights.

    Raises:
        FileNotFoundError: The folder holds no complete checkpoint.
        ValueError: It is of another format or version.
    """
    filesystem, root = fsspec.url_to_fs(folder)
    if not filesystem.exists(f"{root}/{CONFIG_NAME}"):
        raise FileNotFoundError(f"{folder}: no {CONFIG_NAME}, so no complete checkpoint")
    where = f"{folder}/{CONFIG_NAME}"
    description = json.loads(filesystem.cat_file(f"{root}/{CONFIG_NAME}"))
    if not isinstance(description, dict):
        raise ValueError(f"{where}: got {type(description).__name__}, expected an object")
    if description.get("format") != folder_format.name:
        raise ValueError(f"{where}: format is {description.get('format')!r}, expected {folder_format.name!r}")
    version, known = description.get("format_version"), folder_format.optional
    if not isinstance(version, int) or version not in known:
        raise ValueError(f"{where}: format_version is {version!r}, expected {' or '.join(map(str, known))}")
    required = _ALWAYS | folder_format.required
    if not required <= set(description) <= required | known[version]:
        raise ValueError(
            f"{where}: missing keys {sorted(required - set(description))}, "
            f"unknown keys {sorted(set(description) - required - known[version])}"
        )
    return description


def read_tensors(folder: str) -> dict[str, Tensor]:
    """The tensors of a folder, on the CPU.

    Raises:
        ValueError: The file is damaged.
    """
    filesystem, root = fsspec.url_to_fs(folder)
    try:
        tensors: dict[str, Tensor] = load(filesystem.cat_file(f"{root}/{WEIGHTS_NAME}"))
    except SafetensorError as error:
        raise ValueError(f"{folder}/{WEIGHTS_NAME}: damaged ({error})") from error
    return tensors


def check_fingerprint(folder: str, description: Mapping[str, object], found: str) -> None:
    """Refuse a network that is not the one that was written.

    Raises:
        ValueError: Says both fingerprints.
    """
    if found != description["fingerprint"]:
        raise ValueError(
            f"{folder}: the weights or the config were changed after saving: "
            f"fingerprint {found}, {CONFIG_NAME} says {description['fingerprint']}"
        )


def put_tensors(module: nn.Module, tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Make the tensors of a state dict the parameters of a module, as they are.

    Args:
        module: Its own parameters may be on the meta device.
        tensors: By name.
        where: Whose they are, for the error.

    Raises:
        ValueError: The names or shapes are not the module's.
    """
    expected = module.state_dict()
    other_shapes = [
        f"{name} is {tuple(tensors[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in sorted(set(tensors) & set(expected))
        if tensors[name].shape != expected[name].shape
    ]
    if set(tensors) != set(expected) or other_shapes:
        raise ValueError(
            f"{where}: missing tensors {sorted(set(expected) - set(tensors))}, "
            f"unknown tensors {sorted(set(tensors) - set(expected))}, other shapes {other_shapes}"
        )
    module.load_state_dict(tensors, assign=True)


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

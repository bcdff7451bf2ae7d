"""Auto-encoders as folders: weights in safetensors, everything else in JSON.

<folder>/model.safetensors   every tensor of the state dict, by name
<folder>/config.json         written last: a folder without it is no checkpoint
    format           "vitok-autoencoder"
    format_version   2; version 1 knew neither statistics nor the later keys of the config, and is read as well
    autoencoder      AutoEncoderConfig.to_json()
    fingerprint      `fingerprint` of config and weights; checked on loading
    training         how the weights came about, where the writer said so
    latents_mean     mean of every latent channel over a corpus, a list of K numbers, where the writer knew it
    latents_std      standard deviation of every latent channel, above 0; beside latents_mean always
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
FORMAT_VERSION = 2
CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"

_REQUIRED_KEYS = {"format", "format_version", "autoencoder", "fingerprint"}
_OPTIONAL_KEYS = {1: {"training"}, 2: {"training", "latents_mean", "latents_std"}}
"""By format version: those that are read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelStatistics:
    """Moments of a tokenizer's latents over a corpus, one number a channel: generators take (z - mean) / std."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"latents_mean has {len(self.mean)} channels, latents_std {len(self.std)}: expected as many"
            )
        if not all(map(math.isfinite, self.mean)):
            raise ValueError(f"latents_mean: got {list(self.mean)}, expected finite numbers")
        if not all(0.0 < value < math.inf for value in self.std):
            raise ValueError(
                f"latents_std: got {list(self.std)}, expected finite numbers above 0 (a channel that never varies has "
                "no scale)"
            )


def fingerprint(model: AutoEncoder) -> str:
    """Identity of a model by content: sha256, in hex, of its config and of every tensor's name, dtype, shape and bytes.

    The same for equal models on whatever device, and in every format version; other for any other bit of a weight.
    """
    digest = hashlib.sha256(_canonical_json(model.config.identity()))
    for name, tensor in sorted(_tensors(model).items()):
        dtype = str(tensor.dtype).removeprefix("torch.")
        digest.update(_canonical_json([name, dtype, list(tensor.shape)]))
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_checkpoint(
    folder: str,
    model: AutoEncoder,
    training: Mapping[str, object] | None = None,
    *,
    latents_mean: Sequence[float] | None = None,
    latents_std: Sequence[float] | None = None,
) -> None:
    """Write a model to a folder, replacing a checkpoint that is there.

    Each file appears whole or not at all. A writer killed between the two leaves a folder that does not load.

    Args:
        folder: Local path or any address fsspec knows, such as "s3://bucket/run/step-1000".
        model: Its parameters may be on any device.
        training: JSON-ready record of how the weights came about.
        latents_mean: Mean of every latent channel over a corpus, K numbers. No part of the fingerprint.
        latents_std: Standard deviation of every latent channel, given if the mean is.

    Raises:
        ValueError: The training record holds NaN or infinity, or the statistics are not K finite numbers each, with
            deviations above 0.
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
    if latents_mean is not None or latents_std is not None:
        statistics = ChannelStatistics(mean=tuple(latents_mean or ()), std=tuple(latents_std or ()))
        _check_channels(statistics, model.config, "statistics")
        description["latents_mean"], description["latents_std"] = list(statistics.mean), list(statistics.std)
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
    description, config = _read_description(folder)
    filesystem, root = fsspec.url_to_fs(folder)
    try:
        tensors = load(filesystem.cat_file(f"{root}/{WEIGHTS_NAME}"))
    except SafetensorError as error:
        raise ValueError(f"{folder}/{WEIGHTS_NAME}: damaged ({error})") from error
    model = from_tensors(config, tensors, where=f"{folder}/{WEIGHTS_NAME}")
    found = fingerprint(model)
    if found != description["fingerprint"]:
        raise ValueError(
            f"{folder}: the weights or the config were changed after saving: "
            f"fingerprint {found}, {CONFIG_NAME} says {description['fingerprint']}"
        )
    return model


def read_latent_statistics(folder: str) -> ChannelStatistics | None:
    """Statistics of a checkpoint's latents, K channels; None where its writer knew none. Reads no weights.

    Raises:
        FileNotFoundError: The folder holds no complete checkpoint.
        ValueError: It is of another format or version, or the statistics are not K finite numbers each.
    """
    description, config = _read_description(folder)
    if "latents_mean" not in description and "latents_std" not in description:
        return None
    where = f"{folder}/{CONFIG_NAME}"
    mean, std = (_numbers(description.get(name, []), f"{where}: {name}") for name in ("latents_mean", "latents_std"))
    try:
        statistics = ChannelStatistics(mean=mean, std=std)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    _check_channels(statistics, config, where)
    return statistics


def from_tensors(config: AutoEncoderConfig, tensors: Mapping[str, Tensor], *, where: str) -> AutoEncoder:
    """Model of a config and the tensors of its state dict, which become its parameters as they are.

    The one place where names in a file meet names in the model, which are those of the v1 code: a reader of weights
    with other names maps them and comes here.

    Raises:
        ValueError: The names or shapes are not those that the config asks for; `where` says whose they are.
    """
    with torch.device("meta"):  # no time spent on random weights that are replaced at once
        model = AutoEncoder(config)
    _check_shapes(tensors, model.state_dict(), where)
    model.load_state_dict(tensors, assign=True)
    return model


def _read_description(folder: str) -> tuple[Mapping[str, object], AutoEncoderConfig]:
    """A `config.json` that has passed every check, and the auto-encoder's entry of it."""
    filesystem, root = fsspec.url_to_fs(folder)
    if not filesystem.exists(f"{root}/{CONFIG_NAME}"):
        raise FileNotFoundError(f"{folder}: no {CONFIG_NAME}, so no complete checkpoint")
    where = f"{folder}/{CONFIG_NAME}"
    description = json.loads(filesystem.cat_file(f"{root}/{CONFIG_NAME}"))
    if not isinstance(description, dict):
        raise ValueError(f"{where}: got {type(description).__name__}, expected an object")
    if description.get("format") != FORMAT:
        raise ValueError(f"{where}: format is {description.get('format')!r}, expected {FORMAT!r}")
    version = description.get("format_version")
    if not isinstance(version, int) or version not in _OPTIONAL_KEYS:
        raise ValueError(f"{where}: format_version is {version!r}, expected {' or '.join(map(str, _OPTIONAL_KEYS))}")
    if not _REQUIRED_KEYS <= set(description) <= _REQUIRED_KEYS | _OPTIONAL_KEYS[version]:
        raise ValueError(
            f"{where}: missing keys {sorted(_REQUIRED_KEYS - set(description))}, "
            f"unknown keys {sorted(set(description) - _REQUIRED_KEYS - _OPTIONAL_KEYS[version])}"
        )
    autoencoder = description["autoencoder"]
    if not isinstance(autoencoder, dict):
        raise ValueError(f"{where}: autoencoder is {autoencoder!r}, expected an object")
    return description, AutoEncoderConfig.from_json(autoencoder)


def _check_channels(statistics: ChannelStatistics, config: AutoEncoderConfig, where: str) -> None:
    if len(statistics.mean) != config.latent_channels:
        raise ValueError(
            f"{where}: latents_mean and latents_std have {len(statistics.mean)} channels, the model has "
            f"{config.latent_channels}"
        )


def _numbers(value: object, where: str) -> tuple[float, ...]:
    if not isinstance(value, list) or not all(type(entry) in (int, float) for entry in value):
        raise ValueError(f"{where} is {value!r}, expected a list of numbers")
    return tuple(float(entry) for entry in value)


def _check_shapes(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    other_shapes = [
        f"{name} is {tuple(found[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in sorted(set(found) & set(expected))
        if found[name].shape != expected[name].shape
    ]
    if set(found) != set(expected) or other_shapes:
        raise ValueError(
            f"{where}: missing tensors {sorted(set(expected) - set(found))}, "
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

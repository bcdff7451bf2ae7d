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

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vitok.config import AutoEncoderConfig
from vitok.model.autoencoder import AutoEncoder
from vitok.model.folder import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    FolderFormat,
    check_fingerprint,
    fingerprint_of,
    put_tensors,
    read_description,
    read_tensors,
    write_folder,
)

FORMAT = FolderFormat(
    name="vitok-autoencoder",
    version=2,
    required={"autoencoder"},
    optional={1: {"training"}, 2: {"training", "latents_mean", "latents_std"}},
)


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
    return fingerprint_of(model.config.identity(), model)


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
    description: dict[str, object] = {"autoencoder": model.config.to_json(), "fingerprint": fingerprint(model)}
    if training is not None:
        description["training"] = dict(training)
    if latents_mean is not None or latents_std is not None:
        statistics = ChannelStatistics(mean=tuple(latents_mean or ()), std=tuple(latents_std or ()))
        _check_channels(statistics, model.config, "statistics")
        description["latents_mean"], description["latents_std"] = list(statistics.mean), list(statistics.std)
    write_folder(folder, FORMAT, description, model)


def load_checkpoint(folder: str) -> AutoEncoder:
    """Read a model, on the CPU and in the dtype it was saved in.

    Raises:
        FileNotFoundError: The folder holds no complete checkpoint.
        ValueError: It is of another format or version, or its tensors are not those its config asks for.
    """
    description, config = _read_description(folder)
    model = from_tensors(config, read_tensors(folder), where=f"{folder}/{WEIGHTS_NAME}")
    check_fingerprint(folder, description, fingerprint(model))
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
    put_tensors(model, tensors, where=where)
    return model


def _read_description(folder: str) -> tuple[Mapping[str, object], AutoEncoderConfig]:
    """A `config.json` that has passed every check, and the auto-encoder's entry of it."""
    description = read_description(folder, FORMAT)
    autoencoder = description["autoencoder"]
    if not isinstance(autoencoder, dict):
        raise ValueError(f"{folder}/{CONFIG_NAME}: autoencoder is {autoencoder!r}, expected an object")
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

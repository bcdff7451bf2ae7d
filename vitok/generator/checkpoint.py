"""Generators as folders: weights in safetensors, everything else in JSON.

<folder>/model.safetensors   every tensor of the transformer's state dict, by name
<folder>/config.json         written last: a folder without it is no checkpoint
    format           "vitok-generator"
    format_version   1
    generator        GeneratorConfig.to_json()
    fingerprint      of config and weights; checked on loading
    training         how the weights came about, where the writer said so
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from vitok.generator.config import GeneratorConfig
from vitok.generator.dit import Dit
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

FORMAT = FolderFormat(name="vitok-generator", version=1, required={"generator"}, optional={1: {"training"}})


@dataclass(frozen=True, kw_only=True, slots=True)
class Generator:
    """A transformer and what its numbers mean."""

    config: GeneratorConfig
    network: Dit

    @property
    def fingerprint(self) -> str:
        """Identity by content (`vitok.model.folder.fingerprint_of`)."""
        return fingerprint_of(self.config.to_json(), self.network)


def save_generator(folder: str, generator: Generator, training: Mapping[str, object] | None = None) -> None:
    """Write a generator to a folder, replacing one that is there; see `vitok.model.folder.write_folder`."""
    description: dict[str, object] = {"generator": generator.config.to_json(), "fingerprint": generator.fingerprint}
    if training is not None:
        description["training"] = dict(training)
    write_folder(folder, FORMAT, description, generator.network)


def load_generator(folder: str) -> Generator:
    """Read a generator, on the CPU and in the dtype it was saved in.

    Raises:
        FileNotFoundError: The folder holds no complete checkpoint.
        ValueError: It is of another format or version, or its tensors are not those its config asks for.
    """
    description = read_description(folder, FORMAT)
    value = description["generator"]
    if not isinstance(value, dict):
        raise ValueError(f"{folder}/{CONFIG_NAME}: generator is {value!r}, expected an object")
    config = GeneratorConfig.from_json(value)
    with torch.device("meta"):  # no time spent on random weights that are replaced at once
        network = Dit(config.dit)
    put_tensors(network, read_tensors(folder), where=f"{folder}/{WEIGHTS_NAME}")
    generator = Generator(config=config, network=network)
    check_fingerprint(folder, description, generator.fingerprint)
    return generator

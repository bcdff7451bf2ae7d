"""Random draws that belong to a sample: functions of (seed, pass, sample), whoever reads it and beside what."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def sample_keys(*, seed: int, parts: Sequence[NDArray[np.int64]]) -> NDArray[np.uint64]:
    """A key for each sample, as good as random.

    Args:
        seed: Of the dataset, not negative.
        parts: What tells a sample and its reading from all others, [n] each: the number of the store, the pass over it,
            the position in it.

    Returns:
        [n]. Each part is mixed in by SplitMix64 (Steele et al., "Fast splittable pseudorandom number generators",
        2014).
    """
    keys = np.full(len(parts[0]), np.random.SeedSequence(seed).generate_state(1, np.uint64)[0], dtype=np.uint64)
    for part in parts:
        keys = _mixed(keys ^ _mixed(part.astype(np.uint64)))
    return keys


def coins(keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """True or False with equal odds, by key: [n]."""
    return (keys >> np.uint64(63)).astype(np.bool_)


def normals(keys: NDArray[np.uint64], shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers by key: float32 [n, *shape]."""
    values = np.empty((len(keys), *shape), dtype=np.float32)
    bits = np.random.Philox(0)
    generator = np.random.Generator(bits)
    state = bits.state  # set for each sample: a new generator would take longer
    for key, out in zip(keys, values, strict=True):
        state["state"]["key"][:] = key, 1
        bits.state = state
        generator.standard_normal(dtype=np.float32, out=out)
    return torch.from_numpy(values)


def _mixed(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    keys = keys + _GOLDEN
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))

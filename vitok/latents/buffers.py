"""Memory for batches, used again once nothing looks at it: fresh pages cost as much as what is copied into them."""

import math
import weakref

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_KEPT = 6
"""Memories that are remembered: those of batches that wait, are used and are written, and of two moments each."""


class Buffers:
    """Lends memory to tensors; whoever keeps a tensor, or a view of it, keeps its memory to himself."""

    def __init__(self) -> None:
        """Begin with none."""
        self._memories: list[tuple[NDArray[np.uint8], weakref.ref[NDArray[np.uint8]]]] = []

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor of any values, as `torch.empty` makes it."""
        size_bytes = math.prod(shape) * dtype.itemsize
        if not size_bytes:
            return torch.empty(shape, dtype=dtype)
        fitting = (memory for memory, lent in self._memories if lent() is None and len(memory) >= size_bytes)
        memory = next(fitting, None)
        if memory is None:
            memory = np.empty(size_bytes, dtype=np.uint8)
        # The tensor's storage holds this array, and nothing else does: it ends with the last view of the tensor.
        lent = memory[:size_bytes]
        others = [entry for entry in self._memories if entry[0] is not memory]
        self._memories = [*others, (memory, weakref.ref(lent))][-_KEPT:]
        return torch.from_numpy(lent).view(dtype).view(shape)

"""The limit: rows of one array in the page cache, gathered in random order into a tensor."""

from collections.abc import Iterator

import numpy as np
import torch
from measure import arguments, measure
from torch import Tensor


def main() -> None:
    """Read; the array is the truth itself."""
    _, truth, _, batch_size, runs, orders = arguments()
    latents = np.load(truth, mmap_mode="r").view(np.uint8)
    generator = np.random.default_rng(0)

    def batches() -> Iterator[Tensor]:
        order = generator.permutation(len(latents))
        for start in range(0, len(order), batch_size):
            yield torch.from_numpy(latents[order[start : start + batch_size]])

    measure(batches, runs=runs, orders=orders)


if __name__ == "__main__":
    main()

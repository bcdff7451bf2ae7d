"""Ours: random rows taken, latents alone."""

from collections.abc import Iterator

import numpy as np
from measure import arguments, measure
from torch import Tensor

from vitok.latents.store import LatentStore


def main() -> None:
    """Read; the store is there already."""
    _, _, folder, batch_size, runs, orders = arguments()
    store = LatentStore(str(folder))
    generator = np.random.default_rng(0)

    def batches() -> Iterator[Tensor]:
        order = generator.permutation(len(store))
        for start in range(0, len(order), batch_size):
            yield store.take(order[start : start + batch_size], columns=()).latents["mean"]

    measure(batches, runs=runs, orders=orders)


if __name__ == "__main__":
    main()

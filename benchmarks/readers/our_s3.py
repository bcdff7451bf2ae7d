"""Ours from S3: a shuffled dataset, latents as stored, through a cache or without."""

import s3fs  # noqa: F401 - what opening a store imports, off the clock
import torch
from measure import Batches, measure_first, remote_arguments

from vitok.latents.store import LatentStore


def main() -> None:
    """Read; the store is there already."""
    url, cache, batch_size, orders = remote_arguments()
    torch.set_num_threads(1)

    def opened() -> Batches:
        dataset = LatentStore(url, cache_dir=cache or None).dataset(batch_size=batch_size, normalize=False)
        return lambda: (batch.latent for batch in dataset)

    measure_first(opened, orders=orders)


if __name__ == "__main__":
    main()

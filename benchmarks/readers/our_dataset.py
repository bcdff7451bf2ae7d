"""Ours: a shuffled dataset, latents as stored."""

import torch
from measure import arguments, measure

from vitok.latents.store import LatentStore


def main() -> None:
    """Read; the store is there already."""
    _, _, folder, batch_size, runs, orders = arguments()
    torch.set_num_threads(1)
    dataset = LatentStore(str(folder)).dataset(batch_size=batch_size, normalize=False)
    measure(lambda: (batch.latent for batch in dataset), runs=runs, orders=orders)


if __name__ == "__main__":
    main()

"""LitData: chunks of 64 MB, shuffled as it does."""

from functools import partial
from pathlib import Path

import numpy as np
from litdata import StreamingDataLoader, StreamingDataset, optimize
from measure import arguments, measure
from numpy.typing import NDArray


def latent(number: int, truth: Path) -> NDArray[np.float16]:
    """One sample."""
    return np.array(np.load(truth, mmap_mode="r")[number].view(np.float16))


def main() -> None:
    """Write or read."""
    what, truth, folder, batch_size, runs, orders = arguments()
    if what == "write":
        count = len(np.load(truth, mmap_mode="r"))
        make = partial(latent, truth=truth)
        optimize(make, list(range(count)), output_dir=str(folder), chunk_bytes="64MB", num_workers=1)
        return
    dataset = StreamingDataset(str(folder), shuffle=True)
    loader = StreamingDataLoader(dataset, batch_size=batch_size, shuffle=True)
    measure(lambda: loader, runs=runs, orders=orders)


if __name__ == "__main__":
    main()

"""Lance: fixed-size lists of float16, random rows taken."""

from collections.abc import Iterator

import lance
import numpy as np
import pyarrow as pa
from measure import arguments, measure
from numpy.typing import NDArray


def main() -> None:
    """Write or read."""
    what, truth, folder, batch_size, runs, orders = arguments()
    if what == "write":
        latents = np.load(truth, mmap_mode="r").view(np.float16)
        width = latents.shape[1]
        table = pa.table({"latent": pa.FixedSizeListArray.from_arrays(pa.array(latents.ravel()), width)})
        lance.write_dataset(table, str(folder))
        return
    dataset = lance.dataset(str(folder))
    generator = np.random.default_rng(0)

    def batches() -> Iterator[NDArray[np.float16]]:
        order = generator.permutation(dataset.count_rows())
        for start in range(0, len(order), batch_size):
            taken = dataset.take(order[start : start + batch_size], columns=["latent"]).column("latent")
            values = taken.combine_chunks().flatten()
            yield values.to_numpy().reshape(len(taken), -1)

    measure(batches, runs=runs, orders=orders)


if __name__ == "__main__":
    main()

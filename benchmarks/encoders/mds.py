"""A DataLoader loop that writes MDS: CLIPS TOKENIZER OUTPUT PRECISION BATCH_SIZE WORKERS.

Worker processes decode, the main process encodes with as many threads as there are workers, and MDSWriter stores. It
cannot go on with a folder that an earlier start left, so a start on one begins anew. `dump OUTPUT PATH` hands back what
is stored.
"""

import shutil
import sys
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from shared import Encoder, chunked, dump, read_images, shard_paths
from streaming import MDSWriter, StreamingDataset
from streaming.base.util import clean_stale_shared_memory
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

COLUMNS = {"key": "str", "mean": "ndarray:float16"}


class Images(IterableDataset[tuple[list[str], NDArray[np.uint8]]]):
    """Batches of decoded images; each worker has its share of the shards."""

    def __init__(self, paths: list[str], batch_size: int) -> None:
        self._paths = paths
        self._batch_size = batch_size

    def __iter__(self) -> Iterator[tuple[list[str], NDArray[np.uint8]]]:
        worker = get_worker_info()
        assert worker is not None
        return chunked(read_images(self._paths[worker.id :: worker.num_workers]), self._batch_size)


def main() -> None:
    """Encode, or hand back."""
    if sys.argv[1] == "dump":
        clean_stale_shared_memory()
        stored = StreamingDataset(local=sys.argv[2], batch_size=1)
        rows = [stored[index] for index in range(len(stored))]
        dump(sys.argv[3], [row["key"] for row in rows], [row["mean"] for row in rows])
        return
    clips, tokenizer, output, precision = sys.argv[1:5]
    batch_size, workers = map(int, sys.argv[5:])
    shutil.rmtree(output, ignore_errors=True)
    encoder = Encoder(tokenizer, precision, workers)
    loader = DataLoader(Images(shard_paths(clips), batch_size), batch_size=None, num_workers=workers)
    with MDSWriter(out=output, columns=COLUMNS) as writer:
        for keys, pixels in loader:
            for key, latent in zip(keys, encoder(keys, torch.as_tensor(pixels).numpy()), strict=True):
                writer.write({"key": key, "mean": latent})


if __name__ == "__main__":
    main()

"""litdata.optimize: CLIPS TOKENIZER OUTPUT PRECISION BATCH_SIZE WORKERS.

Each input is a shard, each worker encodes with one thread. Its checkpoints refuse functions that yield several samples,
as batches must (0.2.76), so a start on what an earlier one left begins anew. `dump OUTPUT PATH` hands back what is
stored.
"""

import sys
from collections.abc import Iterator
from functools import partial

import numpy as np
from litdata import StreamingDataset, optimize
from numpy.typing import NDArray
from shared import Encoder, chunked, dump, read_images, shard_paths

_ENCODERS: dict[str, Encoder] = {}
"""One a process: optimize hands its function to workers, and has no place for a model."""


def main() -> None:
    """Encode, or hand back."""
    if sys.argv[1] == "dump":
        rows = list(StreamingDataset(sys.argv[2]))
        dump(sys.argv[3], [row["key"] for row in rows], [np.asarray(row["mean"]) for row in rows])
        return
    clips, tokenizer, output, precision = sys.argv[1:5]
    batch_size, workers = map(int, sys.argv[5:])
    optimize(
        fn=partial(encoded, tokenizer=tokenizer, precision=precision, batch_size=batch_size),
        inputs=shard_paths(clips),
        output_dir=output,
        num_workers=workers,
        chunk_bytes="64MB",
        mode="overwrite",
        start_method="spawn",
    )


def encoded(
    path: str, *, tokenizer: str, precision: str, batch_size: int
) -> Iterator[dict[str, str | NDArray[np.float16]]]:
    """The samples of one shard."""
    if tokenizer not in _ENCODERS:
        _ENCODERS[tokenizer] = Encoder(tokenizer, precision, 1)
    for keys, pixels in chunked(read_images([path]), batch_size):
        for key, latent in zip(keys, _ENCODERS[tokenizer](keys, pixels), strict=True):
            yield {"key": key, "mean": latent}


if __name__ == "__main__":
    main()

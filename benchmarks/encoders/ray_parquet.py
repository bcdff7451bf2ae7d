"""Plain Ray Data: CLIPS TOKENIZER OUTPUT PRECISION BATCH_SIZE WORKERS. read_parquet, map_batches, write_parquet.

With Ray's own checkpoints by row (CheckpointConfig). They filter Arrow blocks only, and read_webdataset makes others
(Ray 2.60: a second start stops at an assertion), so it reads the clips from tables CLIPS-tables of key and JPEG.
`dump OUTPUT PATH` hands back what is stored.
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import ray
from numpy.typing import NDArray
from ray.data.checkpoint import CheckpointConfig
from shared import Encoder, decode, dump

Batch = dict[str, NDArray[np.generic]]


class EncodeBatch:
    """An actor with a model."""

    def __init__(self, tokenizer: str, precision: str) -> None:
        self._encoder = Encoder(tokenizer, precision, 1)

    def __call__(self, batch: Batch) -> Batch:
        """Keys and latents of a batch."""
        pixels = np.stack([decode(jpeg) for jpeg in batch["jpg"]])
        return {"key": batch["key"], "mean": self._encoder([str(key) for key in batch["key"]], pixels)}


def main() -> None:
    """Encode, or hand back."""
    if sys.argv[1] == "dump":
        keys, latents = [], []
        for path in sorted(Path(sys.argv[2]).glob("*.parquet")):
            table = pq.ParquetFile(path).read(use_threads=False)
            column = table["mean"].combine_chunks()
            keys += table["key"].to_pylist()
            latents += list(column.to_numpy_ndarray())
        dump(sys.argv[3], keys, latents)
        return
    clips, tokenizer, output, precision = sys.argv[1:5]
    batch_size, workers = map(int, sys.argv[5:])
    # Two more for the tasks that read and write: actors that hold every CPU would starve them, and it would hang.
    ray.init(num_cpus=workers + 2, include_dashboard=False, log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # Blocks of some 32 clips: left alone it reads so small a corpus as one, for one worker, and a kill loses all of it.
    context.target_max_block_size = 2 << 20
    context.checkpoint_config = CheckpointConfig(
        id_column="key", checkpoint_path=f"{output}-checkpoint", delete_checkpoint_on_success=False
    )
    latents = ray.data.read_parquet(f"{clips}-tables").map_batches(
        EncodeBatch,
        fn_constructor_args=(tokenizer, precision),
        batch_size=batch_size,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
    )
    latents.write_parquet(output)


if __name__ == "__main__":
    main()

"""One file per item: CLIPS TOKENIZER OUTPUT PRECISION BATCH_SIZE WORKERS. What exists already is skipped.

So many processes, each with its share of the shards. `dump OUTPUT PATH` hands back what is stored.
"""

import multiprocessing
import sys
from pathlib import Path

import numpy as np
from shared import Encoder, chunked, dump, read_images, shard_paths


def main() -> None:
    """Encode, or hand back."""
    if sys.argv[1] == "dump":
        paths = sorted(Path(sys.argv[2]).glob("*.npy"))
        dump(sys.argv[3], [path.stem for path in paths], [np.load(path, allow_pickle=False) for path in paths])
        return
    clips, tokenizer, output, precision = sys.argv[1:5]
    batch_size, workers = map(int, sys.argv[5:])
    Path(output).mkdir(parents=True, exist_ok=True)
    paths, context = shard_paths(clips), multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=encode, args=(paths[index::workers], tokenizer, output, precision, batch_size))
        for index in range(workers)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(max(abs(process.exitcode or 0) for process in processes))


def encode(paths: list[str], tokenizer: str, output: str, precision: str, batch_size: int) -> None:
    """One process's share."""
    encoder, folder = Encoder(tokenizer, precision, 1), Path(output)
    missing = ((key, jpeg) for key, jpeg in read_images(paths) if not (folder / f"{key}.npy").exists())
    for keys, pixels in chunked(missing, batch_size):
        for key, latent in zip(keys, encoder(keys, pixels), strict=True):
            np.save(folder / f"{key}.npy", latent)


if __name__ == "__main__":
    main()

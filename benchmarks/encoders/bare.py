"""The limit: CLIPS TOKENIZER PRECISION BATCH_SIZE WORKERS THREADS. Forward passes over clips in memory, no more.

So many processes, each with its share of the shards decoded before the clock starts; the slowest ends it. Prints the
seconds and clips.
"""

import multiprocessing
import sys
import time
from multiprocessing.synchronize import Barrier

from shared import Encoder, chunked, read_images, shard_paths


def main() -> None:
    """Time the passes."""
    clips, tokenizer, precision = sys.argv[1:4]
    batch_size, workers, threads = map(int, sys.argv[4:])
    context = multiprocessing.get_context("spawn")
    barrier, counts = context.Barrier(workers + 1), context.Array("q", workers)
    paths = shard_paths(clips)
    processes = [
        context.Process(
            target=encode,
            args=(paths[index::workers], tokenizer, precision, batch_size, threads, barrier, counts, index),
        )
        for index in range(workers)
    ]
    for process in processes:
        process.start()
    barrier.wait()
    started = time.perf_counter()
    barrier.wait()
    print(time.perf_counter() - started, sum(counts))
    for process in processes:
        process.join()


def encode(
    paths: list[str],
    tokenizer: str,
    precision: str,
    batch_size: int,
    threads: int,
    barrier: Barrier,
    counts: "list[int]",
    index: int,
) -> None:
    """One process's share."""
    encoder = Encoder(tokenizer, precision, threads)
    batches = list(chunked(read_images(paths), batch_size))
    encoder(*batches[0])  # the first pass of a process allocates
    barrier.wait()
    for keys, pixels in batches:
        encoder(keys, pixels)
        counts[index] += len(keys)
    barrier.wait()


if __name__ == "__main__":
    main()

"""What every reader does with its batches: passes against the clock, and one to see what they hold.

Imports numpy alone: peers' environments have little more.
"""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Batches = Callable[[], Iterable[object]]
"""One pass over everything: batches [B, ...] of float16 or uint8, tensors or arrays."""


def words(batch: object) -> NDArray[np.uint64]:
    """A batch's bytes: [B, words]."""
    array = np.ascontiguousarray(np.asarray(batch))
    return array.reshape(len(array), -1).view(np.uint64)


def digest(total: NDArray[np.uint64]) -> str:
    """Of the sum of all latents, word by word and modulo 2^64: the same in any order, and only in any order."""
    return hashlib.sha256(total.tobytes()).hexdigest()


def contents(batches: Batches) -> tuple[NDArray[np.uint64], list[int], NDArray[np.uint64]]:
    """What a pass holds: numbers of the latents as they came, sizes of the batches, sum of all latents."""
    numbers, sizes, total = [], [], np.zeros(1, dtype=np.uint64)
    for batch in batches():
        values = words(batch)
        numbers.append(values[:, 0].copy())
        sizes.append(len(values))
        total = total + values.sum(axis=0, dtype=np.uint64)
    return np.concatenate(numbers), sizes, total


def measure(batches: Batches, *, runs: int, orders: str) -> None:
    """Print what the batches hold and the seconds that each pass takes, as JSON; write the order to an npy file."""
    numbers, sizes, total = contents(batches)
    np.save(orders, numbers)
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        count = sum(len(batch) for batch in batches())  # type: ignore[arg-type]
        seconds.append(time.perf_counter() - started)
        if count != sum(sizes):
            raise ValueError(f"a pass held {count} latents, the first {sum(sizes)}")
    sys.stdout.write(json.dumps({"digest": digest(total), "sizes": sizes, "seconds": seconds}) + "\n")


def measure_first(opened: Callable[[], Batches], *, orders: str) -> None:
    """Print the seconds from opening to the first batch and to the end of the first pass, as JSON.

    The order of that pass goes to an npy file; what the batches hold is summed in a second one, off the clock.
    """
    started = time.perf_counter()
    batches = opened()
    numbers, first_seconds = [], 0.0
    for batch in batches():
        first_seconds = first_seconds or time.perf_counter() - started
        numbers.append(words(batch)[:, 0].copy())
    seconds = time.perf_counter() - started
    np.save(orders, np.concatenate(numbers))
    _, _, total = contents(batches)
    found = {"digest": digest(total), "first_seconds": first_seconds, "seconds": seconds}
    sys.stdout.write(json.dumps(found) + "\n")


def arguments() -> tuple[str, Path, Path, int, int, str]:
    """What to do ("write" or "read"), truth, folder, batch size, runs, where the order is written."""
    what, truth, folder, batch_size, runs, orders = sys.argv[1:]
    return what, Path(truth), Path(folder), int(batch_size), int(runs), orders


def remote_arguments() -> tuple[str, str, int, str]:
    """URL, cache folder (empty: none), batch size, where the order is written."""
    url, cache, batch_size, orders = sys.argv[1:]
    return url, cache, int(batch_size), orders

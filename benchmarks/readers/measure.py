"""What every reader does with its batches: one pass to see what they hold, then passes against the clock.

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


def measure(batches: Batches, *, runs: int, orders: str) -> None:
    """Print what the batches hold and the seconds that each pass takes, as JSON; write the order to an npy file."""
    numbers, sizes, total = [], [], np.zeros(1, dtype=np.uint64)
    for batch in batches():
        values = words(batch)
        numbers.append(values[:, 0].copy())
        sizes.append(len(values))
        total = total + values.sum(axis=0, dtype=np.uint64)
    np.save(orders, np.concatenate(numbers))
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        count = sum(len(batch) for batch in batches())  # type: ignore[arg-type]
        seconds.append(time.perf_counter() - started)
        if count != sum(sizes):
            raise ValueError(f"a pass held {count} latents, the first {sum(sizes)}")
    sys.stdout.write(json.dumps({"digest": digest(total), "sizes": sizes, "seconds": seconds}) + "\n")


def arguments() -> tuple[str, Path, Path, int, int, str]:
    """What to do ("write" or "read"), truth, folder, batch size, runs, where the order is written."""
    what, truth, folder, batch_size, runs, orders = sys.argv[1:]
    return what, Path(truth), Path(folder), int(batch_size), int(runs), orders

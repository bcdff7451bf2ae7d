"""The steps of an epoch: which bucket each is of, how many samples it takes, and which of them are whose.

The rules, of a bucket with n samples, W ranks and batches of B:
- A step takes the next W * B samples of one bucket. The last step takes what is left; where that would be fewer than W,
  the last two share evenly, so that no rank stands without a sample. Only where a bucket has fewer than W in all (or B
  is 1) some ranks get an empty batch: no sample is lost, none is given twice, all ranks make the same number of steps.
- The samples of a step are divided evenly: ranks hold one more or less than each other.
- The bucket of a step is the one that is furthest behind: each spreads its steps evenly over the epoch, from a phase
  drawn for (seed, epoch, bucket). So it follows from what was consumed, not from who consumes.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

Grid = tuple[int, int, int]


def phases(grids: Sequence[Grid], *, seed: int, epoch: int) -> dict[Grid, float]:
    """Where in its first step each bucket begins, in [0, 1)."""
    return {
        grid: float(np.random.Philox(np.random.SeedSequence((seed, epoch, *grid))).random_raw()) / 2**64
        for grid in grids
    }


def next_bucket(
    sizes: Mapping[Grid, int], consumed: Mapping[Grid, int], phase: Mapping[Grid, float], *, global_batch: int
) -> Grid | None:
    """The bucket of the next step, None at the end of the epoch."""
    left = {grid: size - consumed.get(grid, 0) for grid, size in sizes.items()}
    waiting = {
        grid: (consumed.get(grid, 0) + phase[grid] * min(global_batch, rest)) / sizes[grid]
        for grid, rest in left.items()
        if rest
    }
    return min(waiting, key=lambda grid: (waiting[grid], grid)) if waiting else None


def step_size(left: int, *, batch_size: int, world_size: int) -> int:
    """Samples that the next step takes of a bucket of which so many are left.

    >>> step_size(1000, batch_size=4, world_size=8), step_size(35, batch_size=4, world_size=8)
    (32, 18)
    """
    whole = batch_size * world_size
    if left <= whole:
        return left
    if left - whole < world_size and left >= 2 * world_size:
        return -(-left // 2)
    return whole


def num_steps(size: int, *, batch_size: int, world_size: int) -> int:
    """Steps that take all of a bucket of this size."""
    return -(-size // (batch_size * world_size))


def share(count: int, *, rank: int, world_size: int) -> tuple[int, int]:
    """Half-open span of a step's samples that is a rank's.

    >>> [share(5, rank=rank, world_size=3) for rank in range(3)]
    [(0, 2), (2, 4), (4, 5)]
    """
    each, more = divmod(count, world_size)
    start = rank * each + min(rank, more)
    return start, start + each + (rank < more)


def split(position: int, lengths: Sequence[int]) -> list[int]:
    """How many of a bucket's first `position` samples come from each of its streams of these lengths.

    Grows with the position in each stream, and ends with its length: merged in proportion, no sample lost.

    >>> [split(position, [4, 2]) for position in range(7)]
    [[0, 0], [0, 1], [1, 1], [2, 1], [2, 2], [3, 2], [4, 2]]
    """
    counts = []
    total = sum(lengths)
    for length in lengths:
        count = position * length // total if total else 0
        counts.append(count)
        position -= count
        total -= length
    return counts


def epoch_span(num_samples: int, weight: Fraction, epoch: int) -> tuple[int, int]:
    """Half-open span of a stream's endless order that is an epoch, where an epoch is `weight` passes.

    >>> epoch_span(10, Fraction(1), 3), epoch_span(10, Fraction(1, 4), 3)
    ((30, 40), (7, 10))
    """
    passes = weight.numerator * num_samples
    return epoch * passes // weight.denominator, (epoch + 1) * passes // weight.denominator

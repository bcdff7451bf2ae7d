"""Near duplicates: a perceptual hash of a picture, and which of many hashes repeat an earlier one.

H height, W width, N hashes; d is the Hamming distance up to which two hashes count as one picture.
"""

from collections.abc import Iterator
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HASH_BITS = 64
DEFAULT_MAX_DISTANCE = 6
"""Measured on 300 ImageNet photographs: 99 % or more of their copies at half size, as JPEG of quality 20, a fifth
brighter or darker, or without 1 % at each edge are found; without 2 % at each edge 88 %, without 5 % 17 %. Among their
2.9 million pairs of different photographs, turned and mirrored ones included, none is nearer than 10."""
MAX_DISTANCE = 8
"""At 10 the first different photographs meet: 1 pair in 45,000."""

_POSITION_BITS = 32
_CHUNK = 1 << 20
"""Candidate pairs compared at once."""
_PAIRS = 1 << 22
"""Near pairs held at once."""


def perceptual_hash(pixels: NDArray[np.uint8]) -> int:
    """Hash of an image, or of a video's middle frame: [H, W, 3] -> 64 bits; pictures that look alike share nearly all.

    The DCT hash of ImageHash (`phash`): a grey thumbnail of 32 x 32, its lowest 8 x 8 frequencies, one bit for each
    that lies above their median. A resize, another JPEG quality, a change of brightness and a slight crop change few
    bits; a flip, a turn or a large crop change half of them. Needs the extra `dedup`.

    Args:
        pixels: [H, W, 3] uint8 RGB of any size.

    Returns:
        0 to 2**64 - 1, the lowest frequency in the highest bit.

    Raises:
        ValueError: The array is no RGB picture, or has no pixel.
    """
    from imagehash import phash

    if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(f"pixels: got shape {pixels.shape}, expected [H, W, 3] with at least one pixel")
    bits = phash(Image.fromarray(pixels)).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def near_repeats(hashes: NDArray[np.uint64], max_distance: int = DEFAULT_MAX_DISTANCE) -> NDArray[np.int64]:
    """Positions of the hashes that repeat an earlier kept one: [N] -> [repeats], ascending.

    Greedy in order, so the first of a family stays: a hash is a repeat if it lies within `max_distance` of an earlier
    hash that is none itself. What is kept depends on the order and on nothing else; no two kept hashes are near, and
    each repeat is near a kept one.

    By banding: of d + 2 bands of bits, two hashes at most d apart agree in two or more (pigeonhole), so only those that
    share a pair of bands are compared. (d + 1 bands taken singly would do too, in fewer passes, but at d = 6 a band has
    9 bits and a pair 16: a thirtieth of the comparisons.)

    Measured on 10**6 hashes, a tenth of them repeats, one thread: 5 s at d = 6, 32 s at d = 8; some 130 bytes a hash
    and 40 MB. Where a corpus has more near pairs than fit, it is worked off in shorter stretches: that costs time only.

    Args:
        hashes: [N] uint64, N below 2**32.
        max_distance: Differing bits up to which two hashes count as one picture, 0 to 8.

    Raises:
        ValueError: `max_distance` is outside its range, or `hashes` is not uint64 [N].

    >>> near_repeats(np.array([0b0000, 0b1111, 0b0001, 0b1111], np.uint64), 1)
    array([2, 3])
    """
    if not 0 <= max_distance <= MAX_DISTANCE:
        raise ValueError(f"max_distance: got {max_distance}, expected 0 to {MAX_DISTANCE} of {HASH_BITS} bits")
    if hashes.ndim != 1 or hashes.dtype != np.uint64:
        raise ValueError(f"hashes: got {hashes.dtype} of shape {hashes.shape}, expected uint64 of shape [N]")
    # An equal hash is a repeat whatever became of its first occurrence: what that one repeats, this one repeats too.
    _, firsts = np.unique(hashes, return_index=True)
    firsts.sort()
    kept = np.zeros(len(hashes), np.bool_)
    kept[firsts[_kept(hashes[firsts], max_distance) if max_distance else slice(None)]] = True
    return np.flatnonzero(~kept)


def _kept(hashes: NDArray[np.uint64], max_distance: int) -> NDArray[np.int64]:
    """Positions of the kept among N distinct hashes: all at once, or in stretches whose near pairs fit in memory."""
    kept = np.empty(0, np.int64)
    start, length = 0, len(hashes)
    while start < len(hashes):
        stretch = np.concatenate((kept, np.arange(start, min(start + length, len(hashes)))))
        pairs = _near_pairs(hashes[stretch], max_distance, num_kept=len(kept))
        if pairs is None:
            length = max(1, length // 16)
            continue
        stays = np.ones(len(stretch), np.bool_)
        # In the order of the later one: whether the earlier one stays is then settled.
        for later, earlier in pairs.tolist():
            if stays[earlier]:
                stays[later] = False
        kept = stretch[stays]
        start += length
    return kept


def _near_pairs(hashes: NDArray[np.uint64], max_distance: int, *, num_kept: int) -> NDArray[np.int64] | None:
    """Pairs (later, earlier) at most d apart whose later one is not among the first, kept ones: [pairs, 2], sorted.

    None where they are more than memory is set aside for; never with a single hash after the kept ones.
    """
    found: list[NDArray[np.int64]] = [np.empty((0, 2), np.int64)]
    count = 0
    for first, second in combinations(_bands(max_distance), 2):
        for pairs in _sharing(hashes, first, second, max_distance):
            pairs = pairs[pairs[:, 0] >= num_kept]
            found.append(pairs)
            count += len(pairs)
            if count > _PAIRS and len(hashes) > num_kept + 1:
                return None
    return np.unique(np.concatenate(found), axis=0)


def _sharing(
    hashes: NDArray[np.uint64], first: tuple[int, int], second: tuple[int, int], max_distance: int
) -> Iterator[NDArray[np.int64]]:
    """Pairs (later, earlier) at most d apart that share the bits of two bands, a chunk of candidates at a time."""
    (low, high), (second_low, second_high) = first, second
    keys = (_bits(hashes, low, high) << np.uint64(second_high - second_low)) | _bits(hashes, second_low, second_high)
    # Key above, position below: one sort brings those of one key together, in their order.
    entries = np.sort((keys << np.uint64(_POSITION_BITS)) | np.arange(len(hashes), dtype=np.uint64))
    positions = _bits(entries, 0, _POSITION_BITS).astype(np.int64)
    sorted_hashes = hashes[positions]
    ranks = np.arange(len(hashes))
    opens = np.diff(entries >> np.uint64(_POSITION_BITS), prepend=np.uint64(1 << _POSITION_BITS)) != 0
    begins = np.maximum.accumulate(np.where(opens, ranks, 0))
    ends = np.cumsum(ranks - begins)
    cuts = np.searchsorted(ends, np.arange(0, ends[-1] + _CHUNK, _CHUNK))
    for start, stop in pairwise([0, *cuts[1:].tolist(), len(hashes)]):
        counts = ranks[start:stop] - begins[start:stop]
        later = np.repeat(ranks[start:stop], counts)
        skipped = begins[start:stop] - (np.cumsum(counts) - counts)
        earlier = np.arange(len(later)) + np.repeat(skipped, counts)
        near = np.bitwise_count(sorted_hashes[later] ^ sorted_hashes[earlier]) <= max_distance
        yield np.stack((positions[later[near]], positions[earlier[near]]), axis=1)


def _bits(values: NDArray[np.uint64], low: int, high: int) -> NDArray[np.uint64]:
    return (values >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)


def _bands(max_distance: int) -> list[tuple[int, int]]:
    """Bits [low, high) of each band."""
    # Fewer than four bands would make keys of more than 32 bits, which do not fit above a position.
    edges = np.linspace(0, HASH_BITS, max(4, max_distance + 2) + 1).round().astype(int).tolist()
    return list(pairwise(edges))

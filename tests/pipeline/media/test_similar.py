import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from pipeline.media.similar import DEFAULT_MAX_DISTANCE, near_repeats, perceptual_hash

BALL_CENTRE = 0x0123456789ABCDEF


def reference(hashes, max_distance):
    """Greedy in order, each hash against every kept one."""
    kept, repeats = np.empty(0, np.uint64), []
    for position, value in enumerate(hashes):
        if (np.bitwise_count(kept ^ value) <= max_distance).any():
            repeats.append(position)
        else:
            kept = np.append(kept, value)
    return np.array(repeats, np.int64)


def flipped(value, bits):
    """The hash with these bits inverted."""
    return value ^ sum(1 << bit for bit in set(bits))


@st.composite
def families(draw):
    """Hashes of which many are near: random ones, and walks of up to ten flipped bits away from earlier ones."""
    hashes = draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5))
    steps = st.tuples(st.integers(0, 2**32), st.lists(st.integers(0, 63), max_size=10))
    for source, bits in draw(st.lists(steps, max_size=60)):
        hashes.append(flipped(hashes[source % len(hashes)], bits))
    return np.array(hashes, np.uint64)


@settings(max_examples=150, deadline=None)
@given(families(), st.integers(0, 8))
def test_equals_each_hash_against_every_kept_one(hashes, max_distance):
    np.testing.assert_array_equal(near_repeats(hashes, max_distance), reference(hashes, max_distance))


@pytest.mark.parametrize("max_distance", range(9))
def test_finds_a_copy_wherever_its_bits_differ(max_distance):
    generator = np.random.default_rng(max_distance)
    for distance in (max_distance, max_distance + 1):
        for _ in range(50):
            value = int(generator.integers(0, 2**64, dtype=np.uint64))
            copy = flipped(value, generator.permutation(64)[:distance].tolist())
            repeats = near_repeats(np.array([value, copy], np.uint64), max_distance)
            assert repeats.tolist() == ([1] if distance <= max_distance else [])


def test_a_chain_keeps_every_other_link():
    """Only a kept hash drops others: of a walk of one bit a step, all that are near the last kept one go."""
    chain = np.array([(1 << step) - 1 for step in range(13)], np.uint64)
    assert near_repeats(chain, 1).tolist() == [1, 3, 5, 7, 9, 11]
    assert near_repeats(chain, 3).tolist() == [1, 2, 3, 5, 6, 7, 9, 10, 11]


def test_more_near_pairs_than_memory_is_set_aside_for():
    """All of 3200 hashes in one ball are near each other: five million pairs, more than are held at once."""
    generator = np.random.default_rng(0)
    ball = [flipped(BALL_CENTRE, generator.permutation(64)[:4].tolist()) for _ in range(3200)]
    hashes = np.array(ball + generator.integers(0, 2**64, 500, dtype=np.uint64).tolist(), np.uint64)
    generator.shuffle(hashes)
    np.testing.assert_array_equal(near_repeats(hashes, 8), reference(hashes, 8))


def test_a_repeated_list_repeats_whole():
    hashes = np.random.default_rng(1).integers(0, 2**64, 3000, dtype=np.uint64)
    assert near_repeats(hashes).size == 0
    twice = np.concatenate((hashes, hashes))
    np.testing.assert_array_equal(near_repeats(twice), np.arange(3000, 6000))


@pytest.mark.parametrize("max_distance", [0, 6])
def test_none_and_one(max_distance):
    assert near_repeats(np.empty(0, np.uint64), max_distance).tolist() == []
    assert near_repeats(np.array([7], np.uint64), max_distance).tolist() == []
    assert near_repeats(np.array([7, 7, 7], np.uint64), max_distance).tolist() == [1, 2]


def test_impossible_arguments():
    with pytest.raises(ValueError, match="max_distance: got 9"):
        near_repeats(np.zeros(2, np.uint64), 9)
    with pytest.raises(ValueError, match="max_distance: got -1"):
        near_repeats(np.zeros(2, np.uint64), -1)
    with pytest.raises(ValueError, match="hashes: got int64"):
        near_repeats(np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="pixels: got shape"):
        perceptual_hash(np.zeros((0, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="pixels: got shape"):
        perceptual_hash(np.zeros((1, 8, 8, 3), np.uint8))


def hash_of(image):
    return perceptual_hash(np.asarray(image))


def test_bits_are_the_lowest_frequencies_above_their_median():
    """A horizontal cosine has one frequency, the third of the first row: bit 63 - 3, beside the mean's."""
    columns = np.cos(np.pi * 3 * (np.arange(32) + 0.5) / 32)
    grey = np.rint(128 + 100 * np.broadcast_to(columns, (32, 32))).astype(np.uint8)
    value = hash_of(np.repeat(grey[:, :, np.newaxis], 3, axis=2))
    assert value >> 63 == 1
    assert value >> 60 & 1 == 1
    inverted = hash_of(np.repeat(255 - grey[:, :, np.newaxis], 3, axis=2))
    assert inverted >> 63 == 1
    assert inverted >> 60 & 1 == 0


def half(image):
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)


def recompressed(image):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=30)
    return Image.open(buffer).convert("RGB")


def brighter(image):
    return ImageEnhance.Brightness(image).enhance(1.15)


def cropped(image):
    x, y = image.width // 100, image.height // 100
    return image.crop((x, y, image.width - x, image.height - y))


@pytest.fixture(scope="module")
def photographs(data_media):
    return [Image.open(path).convert("RGB") for path in sorted(data_media("images/imagenet").iterdir())]


def test_different_photographs_do_not_meet(photographs):
    hashes = np.array([hash_of(half(image)) for image in photographs], np.uint64)
    assert len(hashes) == 300
    assert near_repeats(hashes, 8).size == 0


@pytest.mark.parametrize("change", [half, recompressed, brighter, cropped])
def test_copies_of_photographs_are_found(photographs, change):
    originals = photographs[::6]
    hashes = np.array([hash_of(image) for image in [*originals, *map(change, originals)]], np.uint64)
    repeats = near_repeats(hashes, DEFAULT_MAX_DISTANCE)
    assert (repeats >= len(originals)).all()
    assert len(repeats) >= 0.98 * len(originals)

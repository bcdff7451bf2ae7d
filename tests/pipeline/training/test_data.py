"""Batches through Ray Data: the clips that the order promises, from two stores, for every worker, and after a stop."""

from collections import Counter

import numpy as np
import pytest

from pipeline.runs.prepare import prepare
from pipeline.runs.prepare_config import PrepareConfig
from pipeline.store.files import Folder
from pipeline.store.index import open_store
from pipeline.training.config import DataFlags
from pipeline.training.data import Batches, streams_of
from pipeline.training.order import Mixture
from schemas.metadata import CLIP_STORE_FORMAT

pytestmark = pytest.mark.cluster

PHOTOGRAPHS = (("astronaut.png", "chelsea.png", "coffee.png"), ("rocket.jpg", "retina.jpg"))
FLAGS = DataFlags(batch_size=8, augmentation="random_crop", resolution=16, shuffle_clips=4)


@pytest.fixture(scope="module")
def stores(wheel_media, ray_here, tmp_path_factory):
    """Two stores of photographs, one photograph a shard."""
    opened = []
    for names in PHOTOGRAPHS:
        media = tuple(str(wheel_media("scikit-image", name)) for name in names)
        output = str(tmp_path_factory.mktemp("store"))
        prepare(PrepareConfig(input=media, output=output, resolution=32, num_frames=1, tubelet="1x8", shard_size=1))
        opened.append(open_store(Folder(output), format_name=CLIP_STORE_FORMAT))
    return opened


def batches(stores, *, rank, step=0, used=None, weights=()):
    streams = streams_of(stores)
    return Batches(
        [store.folder for store in stores],
        streams,
        mixture=Mixture(streams, weights=weights, seed=5),
        flags=FLAGS,
        seed=5,
        rank=rank,
        world_size=2,
        step=step,
        num_steps=12,
        used=used or {},
    )


def test_a_later_start_gives_the_batches_that_were_left(stores):
    stream = batches(stores, rank=1)
    whole = [next(stream) for _ in range(12)]
    assert all(batch.pixels.shape == (4, 1, 16, 16, 3) for batch in whole)
    later = batches(stores, rank=1, step=5, used=whole[4].used)
    for expected in whole[5:]:
        found = next(later)
        assert found.keys == expected.keys
        assert found.used == expected.used
        assert np.array_equal(found.pixels, expected.pixels)


def test_workers_see_every_clip_equally_often_and_crops_of_their_own(stores):
    streams = [batches(stores, rank=rank) for rank in range(2)]
    drawn = [[next(stream) for _ in range(12)] for stream in streams]
    keys = Counter(key for worker in drawn for batch in worker for key in batch.keys)
    assert len(keys) == 5
    assert all(abs(count / keys.total() - 1 / 5) < 0.07 for count in keys.values())
    first, second = drawn[0][0], drawn[1][0]
    assert not np.array_equal(first.pixels, second.pixels)
    crops = {clip.numpy().tobytes() for batch in drawn[0] for clip in batch.pixels}
    assert len(crops) > 40


def test_stores_give_the_shares_asked_for(stores):
    stream = batches(stores, rank=0, weights=(1.0, 7.0))
    used = [next(stream) for _ in range(12)][-1].used
    shares = {name.partition("/")[0]: count / sum(used.values()) for name, count in used.items()}
    assert abs(shares["1"] - 7 / 8) < 0.15

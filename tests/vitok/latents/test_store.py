"""A latent store gives back what was put in: every clip once, in its place, to the bit."""

import random
import shutil

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vitok.config import AutoEncoderConfig
from vitok.latents.scan import named_columns
from vitok.latents.store import LatentStore

SMALL, LARGE = (1, 2, 2), (2, 2, 3)


@pytest.fixture
def store(written):
    return LatentStore(written.url)


def bits(latents):
    return latents.contiguous().view(torch.uint8)


def of_grid(written, grid):
    """Positions of a bucket's clips."""
    return [position for position, found in enumerate(written.grids) if found == grid]


def test_the_length_is_the_number_of_stored_clips(store, written):
    assert len(store) == len(written.keys) == 19


def test_the_buckets_are_the_grids_with_their_clips(store):
    assert store.buckets == {SMALL: 12, LARGE: 7}


def test_the_store_says_what_made_it(store, written):
    assert store.dtype == getattr(torch, written.dtype)
    assert (store.channels, store.latent_columns, store.tokenizer_fingerprint) == (4, ("mean", "logvar"), "70ke")
    assert store.tokenizer_config == AutoEncoderConfig.from_name("N-N/2x8", latent_channels=4)


@pytest.mark.parametrize("grid", [None, SMALL, LARGE])
def test_the_statistics_are_those_of_the_stored_values(store, written, grid):
    values = torch.cat(
        [
            latents.double().reshape(-1, 4)
            for latents, found in zip(written.latents["mean"], written.grids, strict=True)
            if grid in (None, found)
        ]
    ).numpy()
    statistics = store.statistics(grid)
    assert statistics.count == len(values)
    assert statistics.mean.dtype == statistics.std.dtype == torch.float64
    np.testing.assert_allclose(statistics.mean, values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(statistics.std, values.std(axis=0), rtol=1e-12)


def test_statistics_of_a_bucket_that_is_not_there_are_refused(store):
    with pytest.raises(KeyError, match="9x9x9"):
        store.statistics((9, 9, 9))


def test_normalised_latents_have_zero_mean_and_unit_deviation(store):
    normalised = [store.normalise(batch.latents["mean"]).reshape(-1, 4) for batch in store.batches(4)]
    values = torch.cat(normalised)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values.mean(dim=0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(values.std(dim=0, correction=0), torch.ones(4), atol=1e-5, rtol=0)


def test_a_channel_that_never_varies_is_normalised_to_zero(tmp_path, write_latent_store):
    written = write_latent_store(tmp_path / "one", shards=[((1, 1, 1), 1)])
    store = LatentStore(written.url)
    assert store.normalise(written.latents["mean"][0]).tolist() == [[[[0.0] * 4]]]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 7, 12, 100])
def test_batches_hold_every_clip_once_and_never_mix_buckets(store, written, batch_size):
    keys = []
    batches = list(store.batches(batch_size))
    for batch in batches:
        grids = {written.grids[written.keys.index(key)] for key in batch.columns["key"]}
        assert len(grids) == 1
        (grid,) = grids
        count = len(batch.columns["key"])
        assert 1 <= count <= batch_size
        for name in ("mean", "logvar"):
            assert batch.latents[name].shape == (count, *grid, 4)
            assert batch.latents[name].dtype == store.dtype
        assert all(len(values) == count for values in batch.columns.values())
        keys += batch.columns["key"]
    assert sorted(keys) == sorted(written.keys)
    assert len(batches) == sum(-(-count // batch_size) for count in store.buckets.values())


def test_batches_hold_each_clip_beside_its_own_latents(store, written):
    for batch in store.batches(4):
        for row, key in enumerate(batch.columns["key"]):
            position = written.keys.index(key)
            for name in ("mean", "logvar"):
                assert torch.equal(bits(batch.latents[name][row]), bits(written.latents[name][position]))
            number = int(str(key).removeprefix("clip-"))
            assert batch.columns["clip_index"][row] == number
            assert batch.columns["media_uri"][row] == f"/media/ü {number}.mp4"
            assert batch.columns["start_seconds"][row] == (number / 3 if number % 2 else None)


def test_a_batch_needs_a_size(store):
    with pytest.raises(ValueError, match="batch_size: got 0"):
        next(store.batches(0))


@given(st.data())
def test_taking_any_positions_gives_those_clips_in_that_order(store_of_parquet, data):
    store, written = store_of_parquet
    places = of_grid(written, data.draw(st.sampled_from([SMALL, LARGE])))
    positions = data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=20))
    check_taken(store, written, positions)


@pytest.fixture(scope="module")
def store_of_parquet(tmp_path_factory, write_latent_store):
    written = write_latent_store(tmp_path_factory.mktemp("store"))
    return LatentStore(written.url), written


def check_taken(store, written, positions):
    batch = store.take(positions)
    assert batch.columns["key"] == [written.keys[position] for position in positions]
    for name in ("mean", "logvar"):
        expected = torch.stack([written.latents[name][position] for position in positions])
        assert torch.equal(bits(batch.latents[name]), bits(expected))


@pytest.mark.parametrize("grid", [SMALL, LARGE])
def test_taking_a_bucket_in_any_order_is_its_batches_in_that_order(store, written, grid):
    positions = of_grid(written, grid)
    random.Random(0).shuffle(positions)
    check_taken(store, written, positions)
    (whole,) = (batch for batch in store.batches(100) if batch.latents["mean"].shape[1:4] == grid)
    row = {key: index for index, key in enumerate(whole.columns["key"])}
    taken = store.take(positions)
    order = [row[key] for key in taken.columns["key"]]
    assert torch.equal(bits(taken.latents["mean"]), bits(whole.latents["mean"][order]))
    assert taken.columns == {name: [values[index] for index in order] for name, values in whole.columns.items()}


def test_positions_of_different_buckets_are_refused(store, written):
    with pytest.raises(ValueError, match=r"positions lie in 2 buckets \[\(1, 2, 2\), \(2, 2, 3\)\]"):
        store.take([of_grid(written, SMALL)[0], of_grid(written, LARGE)[0]])


def test_no_positions_are_no_batch(store):
    with pytest.raises(ValueError, match="positions lie in 0 buckets"):
        store.take([])


@pytest.mark.parametrize("position", [-1, 19, 10**9])
def test_positions_outside_are_refused(store, position):
    with pytest.raises(IndexError, match=f"position {position} is outside a store of 19 clips"):
        store.take([0, position])


def test_positions_run_over_row_groups(tmp_path, write_latent_store):
    written = write_latent_store(tmp_path / "long", shards=[((1, 1, 1), 1100)])
    store = LatentStore(written.url)
    check_taken(store, written, [1099, 0, 511, 512, 1023, 1024, 511])
    sizes = [len(batch.columns["key"]) for batch in store.batches(300)]
    assert sizes == [300, 300, 300, 200]
    assert [key for batch in store.batches(300) for key in batch.columns["key"]] == written.keys


def test_a_batch_may_be_written_to(store):
    batch = next(store.batches(2))
    before = store.take([0]).latents["mean"].clone()
    batch.latents["mean"].zero_()
    assert torch.equal(bits(store.take([0]).latents["mean"]), bits(before))


def test_a_store_is_read_from_any_file_system(written, memory_copy):
    store = LatentStore(memory_copy(written.url))
    check_taken(store, written, of_grid(written, LARGE))


@pytest.fixture
def memory_copy():
    """Copies a folder into fsspec's file system in memory."""
    file_system = fsspec.filesystem("memory")

    def copy(path):
        file_system.put(path, "/copied-latents", recursive=True)
        return "memory://copied-latents"

    yield copy
    file_system.rm("/copied-latents", recursive=True)


def damaged(written, tmp_path, change):
    """A copy of the store with its first shard's file changed."""
    copy = tmp_path / "damaged"
    shutil.copytree(written.url, copy)
    path = sorted(copy.glob("grid=1x2x2/*"))[0]
    path.write_bytes(change(path.read_bytes()))
    return LatentStore(str(copy)), path.name


def test_a_shard_that_is_cut_off_is_refused_and_named(written, tmp_path):
    store, name = damaged(written, tmp_path, lambda data: data[: len(data.rstrip(b"\0")) // 2])
    with pytest.raises(ValueError, match=name):
        list(store.batches(4))
    with pytest.raises(ValueError, match=name):
        store.take([4])


def test_a_shard_that_lost_clips_is_refused_and_named(written, tmp_path, write_latent_store):
    form = LatentStore(written.url).document["latent"]["format"]
    write_latent_store(tmp_path / "fewer", form=form, dtype=written.dtype, shards=[(SMALL, 4)])
    shorter = next((tmp_path / "fewer").glob("grid=1x2x2/*")).read_bytes()
    store, name = damaged(written, tmp_path, lambda _: shorter)
    for read in (lambda: list(store.batches(100)), lambda: store.take([4]), lambda: list(store.dataset(batch_size=4))):
        with pytest.raises(ValueError, match=f"{name}: (has {len(shorter)} bytes|holds 4 clips), the index says"):
            read()


def test_a_missing_shard_says_so(written, tmp_path):
    copy = tmp_path / "missing"
    shutil.copytree(written.url, copy)
    shutil.rmtree(copy / "grid=1x2x2")
    for read in (lambda store: store.take([0]), lambda store: list(store.dataset(batch_size=4))):
        with pytest.raises(FileNotFoundError, match="grid=1x2x2"):
            read(LatentStore(str(copy)))


def test_the_schema_is_that_of_the_columns_beside_the_latents(store):
    assert store.schema.names == list(store.columns) == list(store.take([0]).columns)
    assert store.schema.field("clip_index").type == pa.int64()
    assert not {"mean", "logvar"} & set(store.columns)


def test_clips_are_found_by_key(store, written):
    keys = random.Random(0).sample(written.keys, 9)
    assert store.find([*keys, keys[0]]).tolist() == [written.keys.index(key) for key in [*keys, keys[0]]]
    assert store.find([]).tolist() == []
    with pytest.raises(KeyError, match="'nowhere'"):
        store.find([keys[0], "nowhere"])


def test_clips_are_found_by_a_condition_on_their_columns(store, written):
    numbers = [int(key.removeprefix("clip-")) for key in written.keys]
    for condition, meets in (
        (pc.field("label") == "n1", lambda number: number % 3 == 1),
        ((pc.field("clip_index") > 3) & pc.field("caption").is_valid(), lambda number: number > 3 and number % 2),
        (pc.field("key").isin(["clip-4", "clip-12"]), lambda number: number in (4, 12)),
        (pc.field("clip_index") > 99, lambda number: number > 99),
    ):
        found = store.where(condition).tolist()
        assert found == [position for position, number in enumerate(numbers) if meets(number)]


def test_only_the_columns_that_a_condition_names_are_read(store):
    condition = (pc.field("label") == "n1") & (pc.field("clip_index") + pc.field("num_frames") > 3)
    assert named_columns(condition, store.schema) == ["clip_index", "num_frames", "label"]
    for wrong in (pc.field("colour") == 1, pc.scalar(True), pc.field("label") > 3, pc.field("mean") == b""):
        with pytest.raises(ValueError, match="where: "):
            store.where(wrong)


def test_columns_are_taken_as_asked_for(store, written):
    batch = store.take([0], columns=("label", "key"))
    assert batch.columns == {"label": ["n0"], "key": [written.keys[0]]}
    assert store.take([0], columns=()).columns == {}
    with pytest.raises(ValueError, match="has no column 'colour'"):
        store.take([0], columns=("colour",))


def test_a_tokenizers_own_constants_normalise_where_it_has_them(tmp_path, write_latent_store, store):
    with pytest.raises(ValueError, match=r'no normalisation of its own .*normalise by "corpus"'):
        store.normalise(torch.zeros(4), by="tokenizer")
    rule = {"mean": [0.0, 1.0, 2.0, 3.0], "std": [1.0, 2.0, 4.0, 8.0]}
    foreign = {"fingerprint": "70ke", "config": {"adapter": "diffusers", "class": "AutoencoderKL"}}
    written = write_latent_store(tmp_path / "foreign", tokenizer=foreign, normalisation={"tokenizer": rule})
    other = LatentStore(written.url)
    assert other.normalise(torch.ones(4), by="tokenizer").tolist() == [1.0, 0.0, -0.25, -0.25]
    with pytest.raises(ValueError, match="made through the adapter 'diffusers'"):
        other.tokenizer_config  # noqa: B018
    (batch,) = other.dataset(batch_size=12, normalize="tokenizer", positions=np.arange(5))
    expected = other.normalise(other.take(batch.position.numpy()).latents["mean"], by="tokenizer")
    assert torch.equal(batch.latent, expected)


@pytest.mark.parametrize("cached", [False, True])
def test_a_dataset_of_a_remote_store_is_that_of_the_store_here(written, memory_copy, tmp_path, cached):
    how = {"cache_dir": str(tmp_path / "cache")} if cached else {}
    there, here = LatentStore(memory_copy(written.url), **how), LatentStore(written.url)
    for batch, other in zip(*(store.dataset(batch_size=5, columns=("key",)) for store in (there, here)), strict=True):
        assert batch.columns == other.columns
        assert torch.equal(batch.latent, other.latent)
    assert there.find(written.keys[3:5]).tolist() == [3, 4]

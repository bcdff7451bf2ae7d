"""A dataset's order is nobody's but its seed's: every sample once an epoch, whoever reads, stops and goes on."""

import json
import shutil
import time
import weakref

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitok.latents.store import LatentStore

# Blocks of 512: the first shard has two; buckets of 27 and 4 samples have less than a step.
SHARDS = (((1, 1, 1), 600), ((1, 1, 2), 90), ((1, 2, 1), 4), ((1, 1, 1), 230), ((1, 1, 2), 27))
GRIDS = [grid for grid, count in SHARDS for _ in range(count)]
TOTAL = len(GRIDS)


@pytest.fixture(scope="module")
def ragged(tmp_path_factory, write_latent_store):
    return write_latent_store(tmp_path_factory.mktemp("ragged") / "latents", shards=SHARDS)


@pytest.fixture(scope="module")
def store(ragged):
    return LatentStore(ragged.url)


def steps_of(dataset, num_workers=1):
    """Batches by step, out of the parts of all workers."""
    parts = [
        batch for worker in range(num_workers) for batch, _ in dataset.part(worker, num_workers) if batch is not None
    ]
    return {batch.step: batch for batch in parts}


def read(store, *, world_size, num_workers=1, state=None, **how):
    """Batches of all ranks by step, in the order of the steps."""
    ranks = []
    for rank in range(world_size):
        dataset = store.dataset(rank=rank, world_size=world_size, **how)
        if state is not None:
            dataset.load_state_dict(state)
        ranks.append(steps_of(dataset, num_workers))
    assert all(steps.keys() == ranks[0].keys() for steps in ranks)
    return [[steps[step] for steps in ranks] for step in sorted(ranks[0])]


def positions(batches):
    return [position for batch in batches for position in batch.position.tolist()]


@pytest.fixture(scope="module")
def reference(store):
    """The order of each bucket: what one rank reads one sample at a time."""
    found = {}
    for (batch,) in read(store, world_size=1, batch_size=1, seed=5):
        found.setdefault(batch.grid, []).extend(batch.position.tolist())
    return found


@settings(deadline=None, max_examples=12)
@given(data=st.data())
def test_every_sample_once_and_one_order_for_all_who_read_stop_and_go_on(store, reference, data):
    consumed = dict.fromkeys(reference, 0)
    state, seen = None, []
    for _ in range(2):
        world_size = data.draw(st.integers(1, 5), label="world size")
        steps = read(
            store,
            world_size=world_size,
            num_workers=data.draw(st.integers(1, 3), label="workers"),
            batch_size=data.draw(st.integers(9, 80), label="batch size"),
            seed=5,
            state=state,
        )
        stop = data.draw(st.integers(0, len(steps)), label="stop")
        for ranks in steps[:stop]:
            (grid,) = {batch.grid for batch in ranks}
            found = positions(ranks)
            count = len(found)
            assert {batch.global_size for batch in ranks} == {count}
            assert sorted(found) == sorted(reference[grid][consumed[grid] :][:count])
            consumed[grid] += count
            (text,) = {json.dumps(batch.state, sort_keys=True) for batch in ranks}
            state = json.loads(text)
            seen += found
    # What is left when the last reader stopped.
    seen += positions(
        batch for ranks in read(store, world_size=2, batch_size=64, seed=5, state=state) for batch in ranks
    )
    assert sorted(seen) == list(range(TOTAL))


def test_the_same_global_batch_makes_the_same_steps_for_any_number_of_ranks(store):
    found = [
        [(ranks[0].grid, sorted(positions(ranks))) for ranks in read(store, world_size=world, batch_size=24 // world)]
        for world in (1, 2, 3, 24)
    ]
    assert all(steps == found[0] for steps in found)


def test_batches_are_of_one_bucket_and_as_large_as_asked_for_but_for_the_last_two(store):
    dataset = store.dataset(batch_size=16)
    batches = list(dataset)
    assert len(batches) == dataset.num_steps() == sum(-(-count // 16) for count in store.buckets.values())
    assert [batch.step for batch in batches] == list(range(len(batches)))
    sizes = {}
    for batch in batches:
        assert {GRIDS[position] for position in batch.position} == {batch.grid}
        assert batch.latent.shape == (len(batch), *batch.grid, 4)
        sizes.setdefault(batch.grid, []).append(len(batch))
    assert all(set(of[:-2]) <= {16} for of in sizes.values())


def test_ranks_without_a_sample_get_an_empty_batch(store):
    ranks = next(ranks for ranks in read(store, world_size=6, batch_size=4) if ranks[0].grid == (1, 2, 1))
    assert [len(batch) for batch in ranks] == [1, 1, 1, 1, 0, 0]
    assert ranks[5].latent.shape == (0, 1, 2, 1, 4)


def test_epochs_and_seeds_have_orders_of_their_own(store):
    dataset = store.dataset(batch_size=100, seed=1)
    first, second = positions(dataset), positions(dataset)
    assert sorted(first) == sorted(second) == list(range(TOTAL))
    other = positions(store.dataset(batch_size=100, seed=2))
    assert first != second
    assert other not in (first, second)
    dataset.set_epoch(0)
    assert positions(dataset) == first
    dataset.set_epoch(1)
    assert positions(dataset) == second


def test_an_endless_dataset_goes_on_with_the_next_epoch(store):
    ended = store.dataset(batch_size=100)
    expected = positions(ended) + positions(ended) + positions(ended)
    found, batches = [], iter(store.dataset(batch_size=100, endless=True))
    while len(found) < len(expected):
        found += next(batches).position.tolist()
    assert found == expected
    batches.close()


def test_what_was_not_shuffled_is_the_stores_order(store):
    found = {}
    for batch in store.dataset(batch_size=32, shuffle=False):
        found.setdefault(batch.grid, []).extend(batch.position.tolist())
    assert found == {grid: [at for at, other in enumerate(GRIDS) if other == grid] for grid in store.buckets}


def bits(latents):
    return latents.contiguous().view(torch.uint8)


def test_a_batch_holds_the_stored_latents_and_columns(written):
    store = LatentStore(written.url)
    count = 0
    columns = ("key", "label", "caption", "clip_index", "start_seconds", "interlaced")
    for batch in store.dataset(batch_size=5, normalize=False, columns=columns):
        expected = torch.stack([written.latents["mean"][position] for position in batch.position])
        assert torch.equal(bits(batch.latent), bits(expected))
        numbers = [int(written.keys[position].removeprefix("clip-")) for position in batch.position]
        assert batch.columns == {
            "key": [f"clip-{number}" for number in numbers],
            "label": [f"n{number % 3}" for number in numbers],
            "caption": [f"clip {number}" if number % 2 else None for number in numbers],
            "clip_index": numbers,
            "start_seconds": [number / 3 if number % 2 else None for number in numbers],
            "interlaced": [False] * len(numbers),
        }
        count += len(batch)
    assert count == len(store)


def test_it_is_what_pyarrow_reads(ragged, store):
    found = {}
    for batch in store.dataset(batch_size=64, normalize=False, columns=("key",)):
        found |= dict(zip(batch.columns["key"], map(bytes, bits(batch.latent).flatten(1).numpy()), strict=True))
    expected = {}
    for shard in store.index.files.column("path").to_pylist():
        table = pq.ParquetFile(f"{ragged.url}/{shard}").read(columns=["key", "mean"], use_threads=False)
        expected |= dict(zip(table["key"].to_pylist(), table["mean"].to_pylist(), strict=True))
    assert found == expected


def test_a_batch_is_held_by_who_took_it_alone(store):
    batches = iter(store.dataset(batch_size=16))
    batch = next(batches)
    latent = weakref.ref(batch.latent)
    del batch
    until = time.monotonic() + 10  # its maker may still be at the line that handed it over
    while latent() is not None and time.monotonic() < until:
        time.sleep(0.01)
    assert latent() is None
    batches.close()


def test_layouts_are_views_of_the_same_numbers(written):
    store = LatentStore(written.url)
    last, first, tokens = (
        list(store.dataset(batch_size=4, layout=layout)) for layout in ("channels_last", "channels_first", "tokens")
    )
    for one, other, flat in zip(last, first, tokens, strict=True):
        assert one.latent.dtype == torch.float32
        assert torch.equal(one.latent, store.normalise(store.take(one.position.numpy()).latents["mean"]))
        assert torch.equal(one.latent.movedim(-1, 1), other.latent)
        assert torch.equal(one.latent.flatten(1, 3), flat.latent)
        assert other.latent.is_contiguous()


def drawn(store, **how):
    """Latents by epoch and position, of two epochs."""
    found = {}
    for world_size in (how.pop("world_size", 1),):
        for epoch in range(2):
            for rank in range(world_size):
                dataset = store.dataset(rank=rank, world_size=world_size, normalize=False, **how)
                dataset.set_epoch(epoch)
                for batch in dataset:
                    found |= {
                        (epoch, at): latent for at, latent in zip(batch.position.tolist(), batch.latent, strict=True)
                    }
    assert len(found) == 2 * len(store)
    return found


def test_a_posterior_sample_belongs_to_seed_epoch_and_sample(ragged, store):
    found = drawn(store, batch_size=32, sample="posterior", seed=1)
    again = drawn(store, batch_size=7, sample="posterior", seed=1, world_size=3, shuffle=True, window=1)
    assert all(torch.equal(latent, again[place]) for place, latent in found.items())
    other = drawn(store, batch_size=32, sample="posterior", seed=2)
    noise = {
        name: torch.cat(
            [
                (
                    (latent - ragged.latents["mean"][at].float()) / (ragged.latents["logvar"][at].float() / 2).exp()
                ).ravel()
                for (epoch, at), latent in sorted(values.items())
                if epoch == wanted
            ]
        )
        for name, values, wanted in (("first", found, 0), ("second", found, 1), ("other", other, 0))
    }
    for one in noise.values():
        assert abs(one.mean()) < 0.05
        assert abs(one.std() - 1) < 0.05
    correlations = torch.corrcoef(torch.stack(list(noise.values()))) - torch.eye(3)
    assert correlations.abs().max() < 0.06


def test_a_random_flip_takes_the_mirrored_view_of_half_of_the_samples(tmp_path, write_latent_store):
    columns = ("mean", "logvar", "mean_flip", "logvar_flip")
    written = write_latent_store(tmp_path / "flip", shards=SHARDS[:2], columns=columns)
    store = LatentStore(written.url)
    found = drawn(store, batch_size=32, view="random_flip", seed=1)
    again = drawn(store, batch_size=9, view="random_flip", seed=1, world_size=2)
    flips = {}
    for (epoch, at), latent in found.items():
        assert torch.equal(latent, again[epoch, at])
        flips[epoch, at] = torch.equal(latent, written.latents["mean_flip"][at])
        assert flips[epoch, at] or torch.equal(latent, written.latents["mean"][at])
    for epoch in range(2):
        assert abs(np.mean([flip for (of, _), flip in flips.items() if of == epoch]) - 0.5) < 0.1
    assert 0.3 < np.mean([flips[0, at] != flips[1, at] for at in range(len(store))]) < 0.7
    sampled = drawn(store, batch_size=32, view="random_flip", sample="posterior", seed=1)
    for place, latent in sampled.items():
        ending = "_flip" if flips[place] else ""
        mean, logvar = (written.latents[name + ending][place[1]].float() for name in ("mean", "logvar"))
        assert ((latent - mean).abs() < 6 * (logvar / 2).exp()).all()


def test_a_view_holds_the_chosen_samples_alone(store, reference):
    chosen = store.where(pc.field("label") == "n1")
    assert chosen.tolist() == [at for at in range(TOTAL) if at % 3 == 1]
    for batch_size in (5, 64):
        batches = list(store.dataset(batch_size=batch_size, positions=chosen, columns=("label",), normalize=False))
        assert sorted(positions(batches)) == chosen.tolist()
        assert {label for batch in batches for label in batch.columns["label"]} == {"n1"}
        for batch in batches:
            assert torch.equal(bits(batch.latent), bits(store.take(batch.position.numpy()).latents["mean"]))
    twice = np.concatenate([chosen[::-1], chosen])
    assert sorted(positions(store.dataset(batch_size=64, positions=twice))) == chosen.tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"seed": -1}, "seed: got -1"),
        ({"rank": 2, "world_size": 2}, "rank: got 2, expected 0 to 1"),
        ({"rank": 2}, "expected both or neither"),
        ({"columns": ("colour",)}, "has no column 'colour'"),
        ({"view": "random_flip"}, "has no latent column 'mean_flip'"),
        ({"view": "mirrored"}, "view: got 'mirrored'"),
        ({"layout": "BCHW"}, "layout: got 'BCHW'"),
        ({"normalize": "tokenizer"}, "has no normalisation of its own"),
        ({"positions": np.array([], dtype=np.int64)}, "no clip to read"),
    ],
)
def test_what_cannot_be_read_is_refused_before_the_work(store, changes, message):
    with pytest.raises(ValueError, match=message):
        store.dataset(**({"batch_size": 4} | changes))


def test_a_state_of_another_order_is_refused_and_the_difference_named(store, tmp_path, write_latent_store):
    state = store.dataset(batch_size=4).state_dict()
    second = LatentStore(write_latent_store(tmp_path / "second", shards=SHARDS[:1]).url)
    for other, name in (
        (store.dataset(batch_size=4, seed=1), "seed"),
        (store.dataset(batch_size=4, window=2), "window"),
        (second.dataset(batch_size=4), "stores"),
        (store.dataset(batch_size=4, positions=np.arange(9)), "positions"),
    ):
        with pytest.raises(ValueError, match=rf"in another order: {name} "):
            other.load_state_dict(state)


def test_a_damaged_shard_is_named(ragged, tmp_path):
    shutil.copytree(ragged.url, tmp_path / "damaged")
    store = LatentStore(str(tmp_path / "damaged"))
    path = store.index.shard(3).path
    data = bytearray((tmp_path / "damaged" / path).read_bytes())
    data[-400:-8] = bytes(392)
    (tmp_path / "damaged" / path).write_bytes(data)
    with pytest.raises(ValueError, match=path):
        list(store.dataset(batch_size=64))

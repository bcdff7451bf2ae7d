"""Several stores in one: each sample as often as its weight says, and the same laws of order."""

import numpy as np
import pytest
import torch

from vitok.latents.dataset import mix
from vitok.latents.store import LatentStore


@pytest.fixture(scope="module")
def store(tmp_path_factory, write_latent_store):
    path = tmp_path_factory.mktemp("first") / "latents"
    return LatentStore(write_latent_store(path, shards=[((1, 1, 1), 600), ((1, 1, 2), 90), ((1, 1, 1), 230)]).url)


@pytest.fixture(scope="module")
def second(tmp_path_factory, write_latent_store):
    path = tmp_path_factory.mktemp("second") / "latents"
    return LatentStore(write_latent_store(path, shards=[((1, 1, 1), 200), ((2, 1, 1), 33)]).url)


def counts_of(batches):
    """How often each sample of each store was read."""
    counts = {0: np.zeros(920, int), 1: np.zeros(233, int)}
    for batch in batches:
        for source, position in zip(batch.source.tolist(), batch.position.tolist(), strict=True):
            counts[source][position] += 1
    return counts


def test_a_mixture_holds_every_sample_of_its_stores_once(store, second):
    batches = list(mix([store.dataset(batch_size=32, normalize=False), second.dataset(batch_size=32, normalize=False)]))
    counts = counts_of(batches)
    assert (counts[0] == 1).all()
    assert (counts[1] == 1).all()
    for batch in batches:
        if batch.grid == (1, 1, 1) and len(batch) == 32:
            assert abs(int(batch.source.sum()) - 32 * 200 / 1030) < 2
        for source, position, latent in zip(batch.source, batch.position, batch.latent, strict=True):
            expected = (store, second)[int(source)].take([int(position)], columns=()).latents["mean"][0]
            assert torch.equal(latent, expected)


@pytest.mark.parametrize("world_size", [1, 3])
def test_weights_are_passes_of_an_epoch(store, second, world_size):
    counts = []
    for rank in range(world_size):
        how = {"batch_size": 32, "rank": rank, "world_size": world_size}
        dataset = mix([store.dataset(**how), second.dataset(**how)], weights=[0.5, 2.5])
        counts.append([counts_of(dataset) for _ in range(2)])
    first, later = ({source: sum(of[epoch][source] for of in counts) for source in (0, 1)} for epoch in range(2))
    assert (first[0] + later[0] == 1).all()
    assert first[0].sum() == pytest.approx(920 / 2, abs=3)
    assert (first[1] + later[1] == 5).all()
    assert set(first[1]) == {2, 3}


def test_a_mixture_goes_on_where_it_stopped(store, second):
    def mixture(batch_size):
        parts = [store.dataset(batch_size=batch_size), second.dataset(batch_size=batch_size)]
        return mix(parts, weights=[1, 1.5])

    whole = counts_of(mixture(40))
    batches = iter(mixture(40))
    seen = [next(batches) for _ in range(9)]
    batches.close()
    resumed = mixture(25)
    resumed.load_state_dict(seen[-1].state)
    found = counts_of([*seen, *resumed])
    assert all((found[source] == whole[source]).all() for source in (0, 1))


def test_a_mixture_is_normalised_over_what_it_reads(store, second):
    parts = [store.dataset(batch_size=64), second.dataset(batch_size=64)]
    values = torch.cat([batch.latent.reshape(-1, 4) for batch in mix(parts, weights=[1, 3])])
    torch.testing.assert_close(values.mean(dim=0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(values.std(dim=0, correction=0), torch.ones(4), atol=1e-5, rtol=0)


def test_stores_of_different_tokenizers_are_not_mixed(store, tmp_path, write_latent_store):
    written = write_latent_store(tmp_path / "other", tokenizer={"fingerprint": "c0ffee", "config": {}})
    with pytest.raises(ValueError, match="one tokenizer, dtype and number of channels"):
        mix([store.dataset(batch_size=4), LatentStore(written.url).dataset(batch_size=4)])
    with pytest.raises(ValueError, match="read in the same way"):
        mix([store.dataset(batch_size=4), store.dataset(batch_size=5)])
    with pytest.raises(ValueError, match=r"weights: got \[1, 0\]"):
        mix([store.dataset(batch_size=4)] * 2, weights=[1, 0])

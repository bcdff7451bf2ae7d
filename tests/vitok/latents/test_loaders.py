"""Loaders with worker processes give what the dataset gives alone, and go on where they stopped."""

import json
import pickle
import subprocess
import sys

import pytest
import torch
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from vitok.latents.store import LatentStore

SHARDS = (((1, 1, 1), 300), ((1, 1, 2), 90))


@pytest.fixture(scope="module")
def store(tmp_path_factory, write_latent_store):
    return LatentStore(write_latent_store(tmp_path_factory.mktemp("loaders") / "latents", shards=SHARDS).url)


@pytest.fixture
def make(store):
    return lambda **how: store.dataset(**({"batch_size": 32, "seed": 3, "columns": ("key",)} | how))


def told(batches):
    """All that batches say."""
    return [
        (batch.step, batch.epoch, batch.position.tolist(), batch.columns, batch.latent.tolist()) for batch in batches
    ]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_only_divide_the_work(make, num_workers):
    assert told(DataLoader(make(), batch_size=None, num_workers=num_workers)) == told(make())


def test_workers_that_persist_go_on_with_the_next_epoch(make):
    alone, loader = make(), DataLoader(make(), batch_size=None, num_workers=2, persistent_workers=True)
    for _ in range(2):
        assert told(loader) == told(alone)


def test_workers_that_do_not_persist_are_told_the_epoch(make):
    alone, dataset = make(), make()
    loader = DataLoader(dataset, batch_size=None, num_workers=2)
    for epoch in range(2):
        dataset.set_epoch(epoch)
        assert told(loader) == told(alone)


def test_a_run_goes_on_from_the_state_of_its_last_batch_however_far_its_loader_read_ahead(make):
    whole = told(make())
    loader = iter(DataLoader(make(), batch_size=None, num_workers=2, prefetch_factor=4))
    seen = [next(loader) for _ in range(5)]
    del loader
    resumed = make()
    resumed.load_state_dict(json.loads(json.dumps(seen[-1].state)))
    rest = told(DataLoader(resumed, batch_size=None, num_workers=2))
    assert told(seen) + rest == whole


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata calls it
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 4, 5])
def test_a_stateful_loader_goes_on_where_it_stopped(make, num_workers, stop):
    whole = told(make())
    loader = StatefulDataLoader(make(), batch_size=None, num_workers=num_workers)
    batches = iter(loader)
    seen = [next(batches) for _ in range(stop)]
    state = loader.state_dict()
    del batches
    resumed = StatefulDataLoader(make(), batch_size=None, num_workers=num_workers)
    resumed.load_state_dict(state)
    assert told(seen) + told(resumed) == whole


def test_an_iteration_goes_on_where_the_last_one_stopped(make):
    dataset = make()
    first = []
    for batch in dataset:
        first.append(batch)
        if len(first) == 3:
            break
    assert told(first) + told(dataset) == told(make())


def test_a_store_and_its_datasets_pass_between_processes(make, store):
    store.take([0])  # opens shards, which stay here
    sent, dataset = pickle.loads(pickle.dumps((store, make())))
    assert sent.take([3]).columns == store.take([3]).columns
    assert told(dataset) == told(make())


def test_the_state_is_a_few_numbers(make):
    dataset = make()
    next(iter(dataset))
    assert len(json.dumps(dataset.state_dict())) < 1000


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a GPU")
def test_a_loader_pins_the_latents(make):
    assert all(batch.latent.is_pinned() for batch in DataLoader(make(), batch_size=None, pin_memory=True))


ABANDONED = """
import sys
from vitok.latents.store import LatentStore

batches = iter(LatentStore(sys.argv[1]).dataset(batch_size=32))
next(batches)
"""


def test_a_program_may_end_in_the_middle_of_an_epoch(store):
    done = subprocess.run([sys.executable, "-c", ABANDONED, store.url], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

"""Latent stores that format version 1 wrote are read as they were written, and written as they were."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.store.files import Folder
from pipeline.store.verify import check_shard, check_totals, open_any_store, stray_files
from tests.golden.make import CHANNELS, HERE, PASSED, SHARDS, STORES, clip_metadata, latent, write
from vitok.config import AutoEncoderConfig
from vitok.latents.store import LatentStore

PLACES = [(grid, number) for grid, numbers in SHARDS for number in numbers]
PASSED_CELLS = {
    0: {"rank": -7, "score": 0.1, "safe": True, "license": "CC-BY ü", "tags": '["ü", {"a": 1, "b": null}]'},
    1: dict.fromkeys(PASSED),
    2: {"rank": 9007199254740993, "score": 3.0, "safe": False, "license": "", "tags": '"text"'},
    3: dict.fromkeys(PASSED) | {"rank": 0},
    4: {"rank": 1, "score": -2.5e-300, "safe": True, "license": "\n", "tags": "4"},
}
"""Pass-through columns as a reader sees them: JSON as text."""


@pytest.fixture(params=STORES)
def name(request):
    return request.param


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def row(number, passed):
    values = clip_metadata(number, passed).to_json()
    del values["columns"]
    return values | (PASSED_CELLS[number] if passed else {})


def check(batch, places, golden):
    """The batch holds these clips in this order, every column of them, to the bit."""
    assert list(batch.latents) == list(golden.columns)
    for column, values in batch.latents.items():
        expected = torch.stack([latent(f"clip-{number}", column, grid) for grid, number in places])
        assert values.dtype == getattr(torch, golden.dtype)
        assert torch.equal(values.float(), expected)
    rows = [row(number, golden.passed) for _, number in places]
    assert batch.columns == {column: [values[column] for values in rows] for column in rows[0]}


def test_every_clip_is_read_as_it_was_written(name):
    store, golden = LatentStore(str(HERE / name)), STORES[name]
    assert (len(store), store.buckets) == (5, {(1, 2, 2): 3, (2, 2, 3): 2})
    assert (store.dtype, store.channels) == (getattr(torch, golden.dtype), CHANNELS)
    assert (store.latent_columns, store.document["columns"]) == (golden.columns, golden.passed)
    for batch, (grid, numbers) in zip(store.batches(10), SHARDS, strict=True):
        check(batch, [(grid, number) for number in numbers], golden)
    for positions in ([2, 0], [1], [4, 3, 4]):
        check(store.take(positions), [PLACES[position] for position in positions], golden)


def test_the_store_says_what_made_it(name):
    store = LatentStore(str(HERE / name))
    assert store.tokenizer_fingerprint == "70ke"
    assert store.tokenizer_config == AutoEncoderConfig.from_name("N-N/2x8", latent_channels=CHANNELS)


@pytest.mark.parametrize("grid", [None, (1, 2, 2), (2, 2, 3)])
def test_the_statistics_are_those_of_the_mean(name, grid):
    means = [latent(f"clip-{number}", "mean", found) for found, number in PLACES if grid in (None, found)]
    values = torch.cat([mean.reshape(-1, CHANNELS) for mean in means]).double().numpy()
    statistics = LatentStore(str(HERE / name)).statistics(grid)
    assert statistics.count == len(values)
    np.testing.assert_allclose(statistics.mean, values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(statistics.std, values.std(axis=0), rtol=1e-12)


def test_the_store_is_found_whole(name):
    store = open_any_store(Folder(str(HERE / name)))
    assert (check_totals(store), stray_files(store)) == ([], [])
    assert [problem for row in store.rows for problem in check_shard(store.folder, row, sample=5)] == []


def test_written_again_the_shards_are_the_same_bytes(name, tmp_path):
    write(str(tmp_path / name), STORES[name])
    found, expected = contents(tmp_path / name), contents(HERE / name)
    assert found.keys() == expected.keys()
    writer = pq.read_metadata(HERE / name / "index.parquet").created_by
    same_arrow = writer == f"parquet-cpp-arrow version {pa.__version__}"
    # Arrow writes its version into each Parquet file, whose hash stands in ledger, index and store.json.
    compared = [path for path in expected if same_arrow or path.endswith(".tar")]
    assert [path for path in compared if found[path] != expected[path]] == []
    if not same_arrow:
        pytest.skip(f"golden Parquet files are of {writer}, this is {pa.__version__}: only tars can be compared")

"""Other programs open a latent store without us: each of their cells becomes the array that LatentStore gives."""

import gc
import json
from pathlib import Path

import duckdb
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
import webdataset

from vitok.latents.store import LatentStore

COLUMNS = ("mean", "logvar")
DTYPES = ("float16", "bfloat16", "float32")
BUCKETS = ("1x2x2", "2x2x3")


@pytest.fixture(scope="module", params=DTYPES)
def parquet(request, tmp_path_factory, write_latent_store):
    """Folder of a Parquet store."""
    folder = tmp_path_factory.mktemp("parquet")
    write_latent_store(folder, form="parquet", dtype=request.param)
    return folder


@pytest.fixture(scope="module", params=DTYPES)
def tars(request, tmp_path_factory, write_latent_store):
    """Folder of a WebDataset store."""
    folder = tmp_path_factory.mktemp("webdataset")
    write_latent_store(folder, form="webdataset", dtype=request.param)
    return folder


def described(folder: Path) -> tuple[torch.dtype, int]:
    """Dtype and channels as `store.json` says them."""
    latent = json.loads((folder / "store.json").read_text())["latent"]
    return getattr(torch, latent["dtype"]), latent["channels"]


def arrays(rows, *, dtype, channels):
    """By key and column: cells as README says they are read; rows are (key, grid, a cell for each column)."""
    found = {}
    for key, grid, *cells in rows:
        shape = (*map(int, grid.split("x")), channels)
        found[key] = {
            name: torch.frombuffer(bytearray(cell), dtype=dtype).reshape(shape)
            for name, cell in zip(COLUMNS, cells, strict=True)
        }
    return found


def check(found, folder, bucket=None):
    """What was found is what LatentStore gives: all clips of the store, or of one bucket, to the bit."""
    expected = {}
    for batch in LatentStore(str(folder)).batches(100):
        grid = "x".join(map(str, batch.latents["mean"].shape[1:4]))
        if bucket in (None, grid):
            for place, key in enumerate(batch.columns["key"]):
                expected[key] = {name: values[place] for name, values in batch.latents.items()}
    assert found.keys() == expected.keys()
    assert len(found) == {None: 19, "1x2x2": 12, "2x2x3": 7}[bucket]
    for key, latents in expected.items():
        assert list(found[key]) == list(latents)
        for name, values in latents.items():
            assert found[key][name].dtype == values.dtype
            assert torch.equal(found[key][name], values), (key, name)


def test_pyarrow_needs_no_more_than_the_file(parquet):
    found = {}
    for path in parquet.glob("grid=2x2x3/*.parquet"):
        table = pq.read_table(path, use_threads=False)
        for key in table["key"].to_pylist():
            found[key] = {}
        for name in COLUMNS:
            metadata = table.schema.field(name).metadata
            shape, dtype = json.loads(metadata[b"shape"]), metadata[b"dtype"].decode()
            for key, cell in zip(table["key"].to_pylist(), table[name].to_pylist(), strict=True):
                found[key][name] = torch.frombuffer(bytearray(cell), dtype=getattr(torch, dtype)).reshape(shape)
    check(found, parquet, "2x2x3")


def test_pyarrow_reads_a_bucket_as_a_dataset(parquet):
    dtype, channels = described(parquet)
    for bucket in BUCKETS:
        table = pq.read_table(parquet / f"grid={bucket}", use_threads=False)
        cells = (table[name].to_pylist() for name in COLUMNS)
        rows = zip(table["key"].to_pylist(), [bucket] * len(table), *cells, strict=True)
        check(arrays(rows, dtype=dtype, channels=channels), parquet, bucket)


def test_polars_reads_the_whole_store_with_its_grids(parquet):
    dtype, channels = described(parquet)
    frame = pl.read_parquet(f"{parquet}/grid=*/*.parquet", hive_partitioning=True)
    rows = frame.select("key", "grid", *COLUMNS).iter_rows()
    check(arrays(rows, dtype=dtype, channels=channels), parquet)


def test_duckdb_reads_the_whole_store_with_its_grids(parquet):
    dtype, channels = described(parquet)
    with duckdb.connect() as connection:
        query = "SELECT key, grid, mean, logvar FROM read_parquet(?, hive_partitioning = true)"
        rows = connection.execute(query, [f"{parquet}/grid=*/*.parquet"]).fetchall()
    check(arrays(rows, dtype=dtype, channels=channels), parquet)


@pytest.fixture
def load_dataset(monkeypatch, tmp_path):
    """Hugging Face's `datasets.load_dataset` where no network may be asked."""
    for name in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    # The variables are read as the package is imported.
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    return load_dataset


@pytest.mark.parametrize("bucket", BUCKETS)
def test_hugging_face_datasets_reads_a_bucket(parquet, tmp_path, load_dataset, bucket):
    dtype, channels = described(parquet)
    dataset = load_dataset(
        "parquet", data_files=f"{parquet}/grid={bucket}/*.parquet", split="train", cache_dir=str(tmp_path / "cache")
    )
    rows = ((row["key"], bucket, *(row[name] for name in COLUMNS)) for row in dataset)
    check(arrays(rows, dtype=dtype, channels=channels), parquet, bucket)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves its files to the collector
def test_webdataset_reads_the_whole_store(tars):
    dtype, _ = described(tars)
    paths = sorted(map(str, tars.glob("grid=*/*.tar")))
    found = {}
    for sample in webdataset.WebDataset(paths, shardshuffle=False).decode():
        assert sample["json"]["key"] == sample["__key__"]
        assert getattr(torch, sample["json"]["latent_dtype"]) == dtype
        npys = [sample[f"{name}.npy"] for name in COLUMNS]
        # bfloat16 stands as uint16, the same 16 bits; the view changes nothing for the others.
        assert {str(npy.dtype) for npy in npys} == {
            "uint16" if dtype == torch.bfloat16 else str(dtype).removeprefix("torch.")
        }
        latents = [torch.from_numpy(npy).view(dtype) for npy in npys]
        found[sample["__key__"]] = dict(zip(COLUMNS, latents, strict=True))
    check(found, tars)
    gc.collect()

"""Only what the pipeline writes is read from a shard; anything else is refused and named."""

import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from schemas.latent import LATENT_DTYPES
from vitok.latents.shards import DTYPES, read_rows

SHAPE = (1, 2, 2, 4)


def read(data, path, shape=SHAPE, dtype="float16", latent_columns=("mean",)):
    return list(read_rows(io.BytesIO(data), path=path, shape=shape, dtype=dtype, latent_columns=latent_columns))


def tar_of(entries):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in entries:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return stream.getvalue()


def npy(array, allow_pickle=False):
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=allow_pickle)
    return stream.getvalue()


def sample(key, data):
    document = json.dumps({"key": key, "latent_dtype": "float16"}).encode()
    return [(f"{key}.mean.npy", data), (f"{key}.json", document)]


@pytest.fixture
def values():
    return np.random.default_rng(1).normal(size=(3, *SHAPE)).astype(np.float16)


@pytest.fixture
def parquet(values):
    cells = pa.array([value.tobytes() for value in values], pa.binary(values[0].nbytes))
    stream = io.BytesIO()
    pq.write_table(pa.table({"key": ["a", "b", "c"], "mean": cells}), stream, row_group_size=2)
    return stream.getvalue()


def test_the_reader_and_the_writer_know_the_same_dtypes():
    assert {name: dtype.itemsize for name, dtype in DTYPES.items()} == LATENT_DTYPES


def test_parquet_comes_row_group_by_row_group(parquet, values):
    groups = read(parquet, "x.parquet")
    assert [rows.columns for rows in groups] == [{"key": ["a", "b"]}, {"key": ["c"]}]
    assert torch.equal(torch.cat([rows.latents["mean"] for rows in groups]), torch.from_numpy(values))


@pytest.mark.parametrize(("shape", "dtype"), [((1, 2, 2, 5), "float16"), (SHAPE, "float32"), ((1, 1, 2, 4), "float16")])
def test_parquet_cells_of_another_size_are_refused(parquet, shape, dtype):
    with pytest.raises(ValueError, match=r"x\.parquet: latent cells are fixed_size_binary\[32\]"):
        read(parquet, "x.parquet", shape=shape, dtype=dtype)


def test_parquet_lists_are_no_cells(values):
    stream = io.BytesIO()
    pq.write_table(pa.table({"key": ["a"], "mean": [values[0].ravel().tolist()]}), stream)
    with pytest.raises(ValueError, match="latent cells are list"):
        read(stream.getvalue(), "x.parquet")


def test_a_tar_comes_whole(values):
    (rows,) = read(tar_of(sample("a", npy(values[0])) + sample("b", npy(values[1]))), "x.tar")
    assert rows.columns == {"key": ["a", "b"]}
    assert torch.equal(rows.latents["mean"], torch.from_numpy(values[:2]))


class Bomb:
    def __reduce__(self):
        return (print, ("unpickled",))


def test_a_pickle_is_refused_and_never_run(capsys):
    data = npy(np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"x\.tar"):
        read(tar_of(sample("a", data)), "x.tar")
    assert "unpickled" not in capsys.readouterr().out


def test_an_array_of_another_kind_is_refused_and_the_shard_named(values):
    archive = io.BytesIO()
    np.savez(archive, values[0])
    for data in (
        npy(values[0].astype(np.float32)),
        npy(values[0].astype(np.float64)),
        npy(values[0].astype(">f2")),
        npy(values[0, :, :1]),
        npy(values[0].ravel()),
        archive.getvalue(),
        b"",
        npy(values[0])[:-1],
    ):
        with pytest.raises(ValueError, match=r"x\.tar"):
            read(tar_of(sample("a", data)), "x.tar")


@pytest.mark.parametrize("name", ["../x.json", "/etc/x.json", "a/b.json", ".json", "a b.json"])
def test_a_member_with_a_hostile_name_is_refused(name):
    with pytest.raises(ValueError, match=r"x\.tar: member .* is not KEY\.EXTENSION"):
        read(tar_of([(name, b"{}")]), "x.tar")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
def test_members_that_are_no_files_are_refused(kind):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        header = tarfile.TarInfo("a.json")
        header.type, header.linkname = kind, "/etc/passwd"
        tar.addfile(header)
    with pytest.raises(ValueError, match=r"x\.tar"):
        read(stream.getvalue(), "x.tar")


def test_latents_and_metadata_of_different_clips_are_not_put_together(values):
    first, second = sample("a", npy(values[0])), sample("b", npy(values[1]))
    for entries in ([first[0], second[1]], [first[0], second[0], first[1]], first + second[1:], first[:1] + second):
        with pytest.raises(ValueError, match=r"x\.tar"):
            read(tar_of(entries), "x.tar")


@pytest.mark.parametrize("document", [b"", b"5", b"[]", b"{}"])
def test_metadata_that_is_none_is_refused(values, document):
    entries = [*sample("a", npy(values[0])), ("b.mean.npy", npy(values[1])), ("b.json", document)]
    with pytest.raises(ValueError, match=r"x\.tar"):
        read(tar_of(entries), "x.tar")


def test_a_tar_that_is_cut_off_anywhere_is_refused(values):
    data = tar_of(sample("a", npy(values[0])) + sample("b", npy(values[1])))
    end = len(data.rstrip(b"\0"))
    for length in [*range(0, end, 256), end]:
        with pytest.raises(ValueError, match=r"x\.tar"):
            read(data[:length], "x.tar")

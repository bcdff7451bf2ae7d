"""Latent shards to tensors: Parquet row groups and WebDataset tars."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitok.latents.tar import read_samples

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
_NPY_DESCR = {"float16": "<f2", "bfloat16": "<u2", "float32": "<f4"}
_NPY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '(<[fu]\d)', 'fortran_order': False, 'shape': \(([\d, ]+)\), \} *\n",
    re.DOTALL,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentRows:
    """Neighbouring rows of one shard."""

    latents: dict[str, Tensor]
    """By column ("mean", "mean_flip", ...): [rows, T', H', W', K] of the stored dtype."""
    columns: dict[str, list[object]]
    """The other columns, "key" among them."""


def read_rows(
    stream: BinaryIO, *, path: str, shape: tuple[int, ...], dtype: str, latent_columns: Sequence[str]
) -> Iterator[LatentRows]:
    """Rows of a shard in order: one row group at a time from Parquet, all at once from a tar.

    Args:
        stream: The shard's bytes.
        path: Its name; the extension says the format.
        shape: [T', H', W', K] of one latent.
        dtype: Of the stored latents.
        latent_columns: Columns that hold latents.

    Raises:
        ValueError: The shard is damaged, its cells are not of that shape and dtype, or a key is no safe name.
    """
    if path.endswith(".tar"):
        yield _read_tar(stream, path=path, shape=shape, dtype=dtype, latent_columns=latent_columns)
        return
    for table in _row_groups(stream, path):
        latents = {
            name: column_tensor(table.column(name), path=path, shape=shape, dtype=dtype) for name in latent_columns
        }
        yield LatentRows(latents=latents, columns=table.drop_columns(list(latent_columns)).to_pydict())


def _row_groups(stream: BinaryIO, path: str) -> Iterator[pa.Table]:
    try:
        file = pq.ParquetFile(stream)
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a whole Parquet file: {error}") from error


def column_tensor(column: pa.ChunkedArray, *, path: str, shape: tuple[int, ...], dtype: str) -> Tensor:
    """A latent column's cells, copied: [rows, T', H', W', K].

    Raises:
        ValueError: They are not of that shape and dtype.
    """
    values = column.combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks)
    size_bytes = DTYPES[dtype].itemsize * math.prod(shape)
    expected = pa.binary(size_bytes)
    if values.type != expected:
        raise ValueError(f"{path}: latent cells are {values.type}, expected {expected} for {dtype} {shape}")
    cells = values.buffers()[1]
    # A copy: the tensor owns its memory and may be written to, which Arrow's may not.
    data = bytearray(memoryview(cells)[values.offset * size_bytes :][: len(values) * size_bytes])
    return torch.frombuffer(data, dtype=DTYPES[dtype]).reshape(len(values), *shape)


def _read_tar(
    stream: BinaryIO, *, path: str, shape: tuple[int, ...], dtype: str, latent_columns: Sequence[str]
) -> LatentRows:
    cells: dict[str, list[bytes]] = {name: [] for name in latent_columns}
    documents: list[Mapping[str, object]] = []
    for key, members in read_samples(stream, where=path):
        try:
            document = json.loads(members["json"])
            for name in latent_columns:
                cells[name].append(_npy_cell(members[f"{name}.npy"], shape=shape, dtype=dtype))
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path}: clip {key!r} cannot be read: {error}") from error
        if not isinstance(document, dict) or document.pop("key", None) != key:
            raise ValueError(f"{path}: clip {key!r} has the metadata of another, or none")
        document.pop("latent_dtype", None)
        documents.append({"key": key} | document)
        if documents[-1].keys() != documents[0].keys():
            raise ValueError(f"{path}: clip {key!r} has columns {sorted(document)}, others {sorted(documents[0])}")
    if not documents:
        raise ValueError(f"{path}: holds no clips")
    latents = {
        name: torch.frombuffer(bytearray(b"".join(values)), dtype=DTYPES[dtype]).reshape(len(values), *shape)
        for name, values in cells.items()
    }
    return LatentRows(latents=latents, columns={name: [entry[name] for entry in documents] for name in documents[0]})


def _npy_cell(data: bytes, *, shape: tuple[int, ...], dtype: str) -> bytes:
    """The numbers of an npy. Not numpy.load: it opens zip archives and pickles too, and evaluates the header."""
    header = _NPY_HEADER.match(data)
    found = None if header is None else (header[1].decode(), header[2].decode().replace(" ", "").strip(","))
    if header is None or found != (_NPY_DESCR[dtype], ",".join(map(str, shape))):
        raise ValueError(f"npy holds {found or 'something else'}, expected C-ordered {_NPY_DESCR[dtype]} {shape}")
    cell = data[header.end() :]
    if len(cell) != DTYPES[dtype].itemsize * math.prod(shape):
        raise ValueError(f"npy holds {len(cell)} bytes of {_NPY_DESCR[dtype]} {shape}")
    return cell


def as_bytes(tensor: Tensor) -> NDArray[np.uint8]:
    """[rows, ...] to the bytes of each row, [rows, bytes], without a copy."""
    array: NDArray[np.uint8] = tensor.reshape(len(tensor), -1).view(torch.uint8).numpy()
    return array

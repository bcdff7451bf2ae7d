"""Latent shards to tensors: Parquet row groups and WebDataset tars."""

import io
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
_KEY = re.compile(r"[A-Za-z0-9_-]{1,96}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentRows:
    """Neighbouring rows of one shard."""

    latents: dict[str, Tensor]
    """By column ("mean", "logvar"): [rows, T', H', W', K] of the stored dtype."""
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
        ValueError: The shard's cells are not of that shape and dtype, or a key is no safe name.
    """
    if path.endswith(".tar"):
        yield _read_tar(stream, path=path, shape=shape, dtype=dtype, latent_columns=latent_columns)
        return
    file = pq.ParquetFile(stream)
    for group in range(file.num_row_groups):
        table = file.read_row_group(group)
        latents = {
            name: _column_tensor(table.column(name), path=path, shape=shape, dtype=dtype) for name in latent_columns
        }
        yield LatentRows(latents=latents, columns=table.drop_columns(list(latent_columns)).to_pydict())


def _column_tensor(column: pa.ChunkedArray, *, path: str, shape: tuple[int, ...], dtype: str) -> Tensor:
    values = column.combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks)
    size_bytes = DTYPES[dtype].itemsize * int(np.prod(shape))
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
    arrays: dict[str, list[np.ndarray]] = {name: [] for name in latent_columns}
    documents: list[dict[str, object]] = []
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        for entry in tar:
            key, _, extension = entry.name.partition(".")
            content = tar.extractfile(entry)
            if content is None or _KEY.fullmatch(key) is None:
                raise ValueError(f"{path}: member {entry.name!r} is not KEY.EXTENSION with a safe key")
            if extension == "json":
                documents.append(json.loads(content.read()))
            elif extension.removesuffix(".npy") in arrays:
                arrays[extension.removesuffix(".npy")].append(np.load(io.BytesIO(content.read()), allow_pickle=False))
    latents = {}
    for name, values in arrays.items():
        stacked = torch.from_numpy(np.stack(values)).view(DTYPES[dtype])
        if tuple(stacked.shape) != (len(documents), *shape):
            raise ValueError(f"{path}: {name} is {tuple(stacked.shape)}, expected {(len(documents), *shape)}")
        latents[name] = stacked
    names = [name for name in documents[0] if name != "latent_dtype"]
    return LatentRows(latents=latents, columns={name: [entry[name] for entry in documents] for name in names})

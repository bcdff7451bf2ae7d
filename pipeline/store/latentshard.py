"""Latent shards: posteriors to Parquet or WebDataset (layout in schemas.latent)."""

import io
import json
from collections.abc import Mapping, Sequence
from typing import BinaryIO, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.store.tables import RowGroupWriter
from pipeline.store.tar import TarWriter
from schemas.clip import ClipMetadata
from schemas.latent import CLIP_COLUMNS, ROW_GROUP_ROWS, clip_row

StoreFormat = Literal["parquet", "webdataset"]
SUFFIXES: Mapping[StoreFormat, str] = {"parquet": ".parquet", "webdataset": ".tar"}


class LatentShardWriter(Protocol):
    """Appends latents to one file."""

    num_clips: int

    def write(self, metadata: ClipMetadata, values: Mapping[str, NDArray[np.generic]]) -> None:
        """Append one clip: an array by latent column, already of the stored dtype (bfloat16 as uint16 bits)."""

    def close(self) -> None:
        """Write what is buffered and the end of the file; the stream stays open."""


class ParquetLatentWriter:
    """Fixed-size binary cells in row groups of `ROW_GROUP_ROWS`, uncompressed."""

    def __init__(self, stream: BinaryIO, schema: pa.Schema, *, passed: Mapping[str, str]) -> None:
        """Begin a file.

        Args:
            stream: Where it goes.
            schema: `latent_schema` of the bucket.
            passed: The pass-through columns in it, by name and type.
        """
        self.num_clips = 0
        self._passed = passed
        self._latent_columns = schema.names[len(CLIP_COLUMNS) + len(passed) :]
        self._rows = RowGroupWriter(
            pq.ParquetWriter(
                stream,
                schema,
                compression="none",
                use_dictionary=["media_uri", "media_sha256"],
                write_statistics=["key"],
            ),
            group_rows=ROW_GROUP_ROWS,
        )

    def write(self, metadata: ClipMetadata, values: Mapping[str, NDArray[np.generic]]) -> None:
        """Append one clip."""
        self._rows.write(
            clip_row(metadata, self._passed) | {name: values[name].tobytes() for name in self._latent_columns}
        )
        self.num_clips += 1

    def close(self) -> None:
        """Write the last row group and the footer."""
        self._rows.close()


class TarLatentWriter:
    """One npy a latent column and one JSON a clip."""

    def __init__(self, stream: BinaryIO, *, passed: Mapping[str, str], columns: Sequence[str], dtype: str) -> None:
        self.num_clips = 0
        self._passed = passed
        self._columns = columns
        self._dtype = dtype
        self._tar = TarWriter(stream)

    def write(self, metadata: ClipMetadata, values: Mapping[str, NDArray[np.generic]]) -> None:
        """Append one clip."""
        members = {}
        for name in self._columns:
            buffer = io.BytesIO()
            np.save(buffer, np.ascontiguousarray(values[name]), allow_pickle=False)
            members[f"{name}.npy"] = buffer.getvalue()
        document = json.dumps(
            clip_row(metadata, self._passed) | {"latent_dtype": self._dtype}, ensure_ascii=False, allow_nan=False
        )
        self._tar.write(metadata.key, members | {"json": document.encode()})
        self.num_clips += 1

    def close(self) -> None:
        """Write the end of the tar."""
        self._tar.close()

"""Copy a shard: one of another store, its bytes unchanged, under the number that it has here."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from pipeline.stages.stage import ShardReport, StepClock
from pipeline.store.documents import write_json
from pipeline.store.files import FileRecord, Folder
from pipeline.store.index import IndexRow
from pipeline.store.ledger import read_record
from pipeline.store.planned_shards import PlannedShard
from schemas.metadata import ledger_file

_BLOCK_BYTES = 1 << 20


def copy_source(store: int, row: IndexRow) -> str:
    """What a planned shard's `sources` holds of the shard that it is a copy of.

    Args:
        store: Number of its store among those copied from.
        row: The shard there.
    """
    return f"{store}/{row.shard}/{row.record_sha256}"


class CopyShard:
    """A committed shard of another store, with its outcomes, committed here."""

    def __init__(self, *, sources: Sequence[Folder], output: Folder) -> None:
        """Take the stores.

        Args:
            sources: Those copied from, in the order of their numbers.
            output: The one copied to.
        """
        self._sources = sources
        self._output = output

    def __call__(self, shard: PlannedShard) -> ShardReport:
        """Copy and commit one shard.

        Raises:
            ValueError: It is not what its store was closed with.
        """
        clock = StepClock()
        (source,) = shard.sources
        store, index, sha256 = source.split("/")
        folder = self._sources[int(store)]
        record = read_record(folder, int(index))
        if record is None or record.sha256 != sha256:
            raise _changed(folder, ledger_file(int(index)))
        with clock.step("copy"):
            copied = replace(
                record,
                index=shard.index,
                file=self._copy(folder, record.file, shard.name),
                outcomes=self._copy(folder, record.outcomes, f"outcomes/{shard.name}"),
            )
        with clock.step("commit"):
            write_json(self._output, ledger_file(shard.index), copied.to_json())
        return ShardReport(record=copied, seconds=clock.seconds)

    def _copy(self, folder: Folder, file: FileRecord | None, name: str) -> FileRecord | None:
        """Copy a file of a store; `name` is its path here, without extension."""
        if file is None:
            return None
        digest = hashlib.sha256()
        with self._output.stage(name + PurePosixPath(file.path).suffix) as staged, folder.open(file.path) as stream:
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)
                staged.stream.write(block)
            if digest.hexdigest() != file.sha256:
                raise _changed(folder, file.path)
            return staged.commit()


def _changed(folder: Folder, path: str) -> ValueError:
    return ValueError(
        f"{folder.path(path)}: is not what its store was closed with: `vitok verify --store {folder.url}` says what is "
        "wrong there"
    )

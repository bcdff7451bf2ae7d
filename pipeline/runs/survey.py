"""What a corpus holds: its media listed, then probed on the cluster. Spooled to disk, so that memory does not grow."""

import hashlib
import json
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.media.keys import media_key
from pipeline.media.reject import RejectClip
from pipeline.media.repeats import Repeats
from pipeline.media.retry import RetryPolicy
from pipeline.media.sandbox import Sandbox
from pipeline.media.similar import near_repeats
from pipeline.media.source import Media
from pipeline.runs.progress import Progress
from pipeline.stages.probe import Probed, ProbeMedia, probe_unopened
from pipeline.stages.protocol import ClipProtocol, Filters
from pipeline.stages.stage import reject_row
from pipeline.store.documents import canonical_json
from pipeline.store.files import FileRecord, Folder
from pipeline.store.ledger import OutcomeRow
from schemas.manifest import MEDIA_SCHEMA
from schemas.outcome import Reason, Stage

_UNIT_ROWS = 64
"""Media that one call of the probe takes."""
_GROUP_UNITS = 64
"""Units of a row group."""


class MediaSpool:
    """Media in a fixed order, on this machine's disk, with what is known of them all."""

    def __init__(self, media: Iterable[Media], protocol: ClipProtocol) -> None:
        """List; raises what the listing raises.

        Args:
            media: In the run's order.
            protocol: Says which media must be opened before their clips are known.
        """
        self.kinds: Counter[str] = Counter()
        """Media by kind."""
        self.size_bytes = 0
        """Of all media whose size is known."""
        self.to_open: list[bool] = []
        """Of each unit: whether it holds media that must be opened."""
        self._folder = tempfile.TemporaryDirectory(prefix="vitok-")
        self.path = Path(self._folder.name) / "media.parquet"
        digest = hashlib.sha256()
        with Repeats() as repeats, pq.ParquetWriter(self.path, MEDIA_SCHEMA) as writer:
            for group in _chunks(media, _UNIT_ROWS * _GROUP_UNITS):
                rows = [entry.to_row() for entry in group]
                writer.write_table(pa.Table.from_pylist(rows, schema=MEDIA_SCHEMA))
                for entry, row in zip(group, rows, strict=True):
                    repeats.add(entry.uri.encode())
                    digest.update(canonical_json(row))
                    self.kinds[entry.kind] += 1
                    self.size_bytes += entry.size_bytes or 0
                for unit in _chunks(group, _UNIT_ROWS):
                    self.to_open.append(any(probe_unopened(entry, protocol) is None for entry in unit))
            self.repeated = frozenset(repeats.repeated().tolist())
            """Positions of media that were named before."""
        self.sha256 = digest.hexdigest()
        """Of every row: one changed file is another corpus."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def __len__(self) -> int:
        """Media, those named again counted once."""
        return self.kinds.total() - len(self.repeated)

    def __iter__(self) -> Iterator[Media]:
        """All media, those named again too."""
        for unit in self.units():
            yield from unit

    def units(self) -> Iterator[list[Media]]:
        """All media, in units."""
        file = pq.ParquetFile(self.path)
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, use_threads=False).to_pylist()
            yield from _chunks((Media.from_row(row) for row in rows), _UNIT_ROWS)

    def save(self, output: Folder, path: str) -> FileRecord:
        """Copy the spool to where the cluster can read it."""
        with output.stage(path) as staged, self.path.open("rb") as source:
            while block := source.read(2**20):
                staged.stream.write(block)
            return staged.commit()


def probed(
    spool: MediaSpool,
    output: Folder,
    path: str,
    protocol: ClipProtocol,
    *,
    policy: RetryPolicy,
    num_workers: int,
) -> Iterator[Probed | OutcomeRow]:
    """What becomes of each media of a spool, in its order: the clips it gives, or its outcome.

    Args:
        spool: The media.
        output: Folder that the cluster can read.
        path: Where the spool was saved in it.
        protocol: How clips are made.
        policy: How media are read.
        num_workers: At most.
    """
    units = [unit for unit, to_open in enumerate(spool.to_open) if to_open]
    opened = _opened(units, partial(_Prober, output, path, protocol, policy), num_workers)
    found = _probed(spool, opened, protocol)
    return found if protocol.filters.duplicates == "keep" else _without_repeats(found, spool, protocol.filters)


def _probed(
    spool: MediaSpool, opened: Iterator[list[Probed | OutcomeRow]], protocol: ClipProtocol
) -> Iterator[Probed | OutcomeRow]:
    """Units that need no opening are settled here, the others were on the cluster."""
    with Progress("probe", total=spool.kinds.total(), unit="media") as progress:
        for media, to_open in zip(spool.units(), spool.to_open, strict=True):
            if to_open:
                yield from next(opened)
            else:
                for entry in media:
                    settled = probe_unopened(entry, protocol)
                    assert settled is not None
                    yield settled
            progress.advance(len(media))


def _opened(
    units: Sequence[int], make: Callable[[], "_Prober"], num_workers: int
) -> Iterator[list[Probed | OutcomeRow]]:
    """Results of each unit, in order, through Ray Data."""
    if not units:
        return
    import ray.data

    dataset = ray.data.from_items([{"unit": unit} for unit in units], override_num_blocks=len(units)).map_batches(
        _ProbeWorker,
        fn_constructor_args=(make,),
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=min(num_workers, len(units))),
    )
    dataset.context.execution_options.preserve_order = True
    for row in dataset.iter_rows():
        yield [_from_json(entry) for entry in json.loads(row["found"])]


class _ProbeWorker:
    """The Ray Data side of the probe: one row in (a unit), one row out (its results)."""

    def __init__(self, make: Callable[[], "_Prober"]) -> None:
        self._prober = make()

    def __call__(self, batch: dict[str, NDArray[np.int64]]) -> dict[str, NDArray[np.str_]]:
        (unit,) = batch["unit"]
        return {"found": np.array([json.dumps([asdict(entry) for entry in self._prober(int(unit))])])}


class _Prober:
    """Probes the media of a unit."""

    def __init__(self, output: Folder, path: str, protocol: ClipProtocol, policy: RetryPolicy) -> None:
        self._output = output
        self._path = path
        self._sandbox: Sandbox[Media, Probed] = Sandbox(
            partial(ProbeMedia, protocol, policy), count=lambda _: 1, timeout_s=protocol.limits.probe_timeout_s
        )

    def __call__(self, unit: int) -> list[Probed | OutcomeRow]:
        group, place = divmod(unit, _GROUP_UNITS)
        with self._output.open(self._path) as stream:
            rows = pq.ParquetFile(stream).read_row_group(group, use_threads=False)
        media = [Media.from_row(row) for row in rows.slice(place * _UNIT_ROWS, _UNIT_ROWS).to_pylist()]
        return [_probe(entry, results) for entry, results in zip(media, self._sandbox.run(media), strict=True)]


def _probe(media: Media, results: Iterator[Probed]) -> Probed | OutcomeRow:
    try:
        (found,) = results
    except RejectClip as error:
        return ended_row(media.uri, error)
    return found


def _from_json(value: dict[str, object]) -> Probed | OutcomeRow:
    if "reason" in value:
        return OutcomeRow(**value)  # type: ignore[arg-type]  # of `asdict`
    size, first_frames = value["size"], value["first_frames"]
    assert isinstance(size, list)
    assert isinstance(first_frames, list)
    return Probed(**value | {"size": tuple(size), "first_frames": tuple(first_frames)})  # type: ignore[arg-type]


def _without_repeats(
    found: Iterator[Probed | OutcomeRow], spool: MediaSpool, filters: Filters
) -> Iterator[Probed | OutcomeRow]:
    """The same, but media that repeat an earlier one end as filtered; two passes, the first spooled to disk."""
    looks, holders = array("Q"), array("q")
    with tempfile.TemporaryFile("w+") as spooled, Repeats() as contents:
        for position, entry in enumerate(found):
            spooled.write(json.dumps(asdict(entry)) + "\n")
            # What ended repeats nothing, and a media named again is not a duplicate of itself.
            content = entry.content if isinstance(entry, Probed) and position not in spool.repeated else None
            contents.add(f"{content or position}".encode())
            if isinstance(entry, Probed) and entry.looks is not None and content is not None:
                looks.append(entry.looks)
                holders.append(position)
        same = frozenset(contents.repeated().tolist())
        alike = near_repeats(np.asarray(looks, np.uint64), filters.near_distance) if looks else ()
        similar = frozenset(holders[index] for index in alike)
        spooled.seek(0)
        for position, (media, line) in enumerate(zip(spool, spooled, strict=True)):
            entry = _from_json(json.loads(line))
            if isinstance(entry, Probed) and position in same:
                yield ended_row(media.uri, RejectClip(Reason.DUPLICATE, f"sha256 {entry.content}, as an earlier media"))
            elif isinstance(entry, Probed) and position in similar:
                message = f"perceptual hash {entry.looks:016x}, within {filters.near_distance} bits of an earlier media"
                yield ended_row(media.uri, RejectClip(Reason.NEAR_DUPLICATE, message))
            else:
                yield entry


def ended_row(uri: str, error: RejectClip) -> OutcomeRow:
    """The row on disk of a media, or a container of media, that ended while planning."""
    return reject_row(error, key=media_key(uri), media_uri=uri, start_seconds=None, end_seconds=None, stage=Stage.PLAN)


def _chunks(items: Iterable[Media], size: int) -> Iterator[list[Media]]:
    chunk: list[Media] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk

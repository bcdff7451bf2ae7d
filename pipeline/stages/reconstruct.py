"""Reconstruct a shard: clips through something that gives them back, and every clip measured.

Axes: B batch, T time, H height, W width of pixels; T' x H' x W' the grid of latents, K latent channels.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from pipeline.media.reject import RejectClip
from pipeline.stages.clip_source import StoredClips, in_batches, read_ahead
from pipeline.stages.latent_health import LatentSums
from pipeline.stages.stage import ShardReport, StepClock, reject_clip
from pipeline.stages.tokenizer import Inference
from pipeline.store.clipshard import Clip
from pipeline.store.files import Folder
from pipeline.store.ledger import OutcomeRow, commit_shard
from pipeline.store.planned_shards import PlannedShard
from pipeline.store.tables import RowGroupWriter
from schemas.audit import SIZE_COLUMN, audit_schema
from schemas.latent import ROW_GROUP_ROWS, clip_row
from schemas.outcome import Stage
from vitok.metrics.measure import Measures
from vitok.metrics.registry import FEATURES, METRICS, Kind
from vitok.model.posterior import Posterior

CONTENT_MODULUS = 2**256


@dataclass(frozen=True, kw_only=True, slots=True)
class Reconstruction:
    """What came back of one clip."""

    pixels: NDArray[np.uint8]
    """[T, H, W, 3]."""
    size_bytes: int
    """Of what stood for the clip in between."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reconstructed:
    """What came back of a batch."""

    results: Sequence[Reconstruction | RejectClip]
    """One for each clip, in order."""
    latents: Posterior | None = None
    """[n, T', H', W', K], of those clips that had one; None: nothing here has latents."""


class Reconstructor(Protocol):
    """Gives clips back. The same clip at the same place in a shard comes back with the same bits."""

    def __call__(self, clips: Sequence[Clip]) -> Reconstructed:
        """Reconstruct up to a batch of clips of one shape."""


class ReconstructShard:
    """Metrics and features of every clip of a planned shard, written as one Parquet file.

    What is written depends neither on the batches nor on who works: pairs are measured one by one, and features of
    clips as many at a time as their length says.
    """

    def __init__(
        self,
        *,
        source: Folder,
        output: Folder,
        make_reconstructor: Callable[[], Reconstructor],
        inference: Inference,
        passed: Mapping[str, str],
        metrics: tuple[str, ...],
    ) -> None:
        """Load all that measures, and what reconstructs.

        Args:
            source: Of the clip shards.
            output: Of the audit's.
            make_reconstructor: Called once.
            inference: How the networks run, also those that measure; so many clips are reconstructed together.
            passed: Pass-through columns that go into the rows, by name and type.
            metrics: Names.
        """
        clock = StepClock()
        torch.set_num_threads(inference.threads)
        with clock.step("weights"):
            self._reconstructor = make_reconstructor()
            self._measures = Measures(metrics, device=torch.device(inference.device))
        self._start_seconds = clock.seconds
        self._source = source
        self._output = output
        self._batch_size = inference.batch_size
        self._passed = passed
        self._metrics = metrics

    def __call__(self, shard: PlannedShard) -> ShardReport:
        """Reconstruct, measure, write and commit one shard."""
        clock = StepClock()
        clock.seconds, self._start_seconds = self._start_seconds, {}
        work = _ShardWork(clock=clock)
        with self._output.stage(shard.name + ".parquet") as staged:
            writer = None
            for pairs in self._pairs(shard, work):
                with clock.step("measure"):
                    fit = self._fitting(pairs[0][0])
                    writer = writer or _RowWriter(staged.stream, self._schema(fit, pairs[0][0]))
                    for row in self._measured(fit, pairs):
                        writer.write(row)
            with clock.step("commit"):
                if writer is not None:
                    writer.close()
                file = None if writer is None else staged.commit()
        with clock.step("commit"):
            numbers = {} if writer is None else writer.numbers
            record = commit_shard(
                self._output,
                shard,
                file=file,
                stored=0 if writer is None else writer.num_rows,
                outcomes=work.outcomes,
                sums={
                    "content": f"{work.content:064x}",
                    SIZE_COLUMN: 0 if writer is None else writer.size_bytes,
                    "metrics": {name: _sums(values) for name, values in numbers.items()},
                    "latents": None if work.latents is None else work.latents.to_json(),
                },
            )
        return ShardReport(record=record, seconds=clock.seconds)

    def _pairs(self, shard: PlannedShard, work: "_ShardWork") -> Iterator[list[tuple[Clip, Reconstruction]]]:
        """Clips with their reconstructions, as many as are measured together."""
        with read_ahead(StoredClips(self._source)(shard), self._batch_size) as clips:
            batches = work.clock.pulled("decode", in_batches(clips, self._batch_size))
            waiting: list[tuple[Clip, Reconstruction]] = []
            for batch in batches:
                for pair in self._reconstructed(batch, work):
                    waiting.append(pair)
                    if len(waiting) == self._measures.clips_at_once(len(pair[0].pixels)):
                        yield waiting
                        waiting = []
            if waiting:
                yield waiting

    def _reconstructed(self, batch: Sequence[Clip], work: "_ShardWork") -> Iterator[tuple[Clip, Reconstruction]]:
        with work.clock.step("reconstruct"):
            done = self._reconstructor(batch)
        with work.clock.step("measure"):
            work.add_latents(done.latents)
            for clip in batch:
                work.content = (work.content + content_of(clip.pixels)) % CONTENT_MODULUS
        for clip, result in zip(batch, done.results, strict=True):
            if isinstance(result, RejectClip):
                work.outcomes.append(reject_clip(result, clip.metadata, Stage.RECONSTRUCT))
            else:
                yield clip, result

    def _fitting(self, clip: Clip) -> tuple[str, ...]:
        """The metrics that clips of this shape have a value in."""
        num_frames, height, width, _ = clip.pixels.shape
        return tuple(
            name
            for name in self._metrics
            if METRICS[name].unfit(num_frames=num_frames, height=height, width=width) is None
        )

    def _schema(self, fit: Sequence[str], clip: Clip) -> pa.Schema:
        vectors = {name: len(clip.pixels) if FEATURES[name].per == "frame" else 1 for name in _feature_sets(fit)}
        return audit_schema(
            passed=self._passed,
            metrics=[name for name in fit if METRICS[name].kind is Kind.MEAN],
            features={name: (count, FEATURES[name].width) for name, count in vectors.items()},
        )

    def _measured(
        self, fit: Sequence[str], pairs: Sequence[tuple[Clip, Reconstruction]]
    ) -> Iterator[dict[str, object]]:
        names = _feature_sets(fit)
        features = self._measures.features(names, [result.pixels for _, result in pairs]) if names else {}
        for place, (clip, result) in enumerate(pairs):
            yield {
                **clip_row(clip.metadata, self._passed),
                SIZE_COLUMN: result.size_bytes,
                **self._measures.pair(fit, clip.pixels, result.pixels),
                **{name: np.ascontiguousarray(found[place]).tobytes() for name, found in features.items()},
            }


def _feature_sets(metrics: Sequence[str]) -> list[str]:
    """The sets of features that metrics are taken of, each once."""
    return list(dict.fromkeys(found for name in metrics if (found := METRICS[name].features) is not None))


class _RowWriter:
    """Rows of a shard, and the numbers in them."""

    def __init__(self, stream: BinaryIO, schema: pa.Schema) -> None:
        self.size_bytes = 0
        """Of what stood for the clips."""
        self.numbers: dict[str, list[float]] = {
            name: [] for name in schema.names if name in METRICS and METRICS[name].kind is Kind.MEAN
        }
        """Values of the metrics."""
        self._rows = RowGroupWriter(pq.ParquetWriter(stream, schema, use_dictionary=False), group_rows=ROW_GROUP_ROWS)

    @property
    def num_rows(self) -> int:
        """Rows so far."""
        return self._rows.num_rows

    def write(self, row: dict[str, object]) -> None:
        """Append a row of the schema."""
        self._rows.write(row)
        self.size_bytes += cast(int, row[SIZE_COLUMN])
        for name, values in self.numbers.items():
            values.append(cast(float, row[name]))

    def close(self) -> None:
        """Write the rest and the file's end; the stream stays open."""
        self._rows.close()


@dataclass(kw_only=True, slots=True)
class _ShardWork:
    """What gathers while a shard is worked on."""

    clock: StepClock
    outcomes: list[OutcomeRow] = field(default_factory=list)
    content: int = 0
    latents: LatentSums | None = None

    def add_latents(self, posterior: Posterior | None) -> None:
        """Merge clip by clip: the sums of a shard do not hang on its batches."""
        if posterior is None:
            return
        for row, mean in enumerate(posterior.mean):
            logvar = None if posterior.logvar is None else posterior.logvar[row].numpy()
            found = LatentSums.of(mean.numpy(), logvar)
            self.latents = found if self.latents is None else self.latents.merge(found)


def content_of(pixels: NDArray[np.uint8]) -> int:
    """Names a clip by what is seen: sha256 of shape and pixels [T, H, W, 3], as a number.

    The sum over clips modulo 2^256 names a set of clips in any order, wherever it lies (a multiset hash: Clarke et al.
    2003, doi:10.1007/978-3-540-40061-5_12).
    """
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return int.from_bytes(digest.digest())


def _sums(values: Sequence[float]) -> dict[str, float]:
    """Exactly rounded, so in any order."""
    return {"clips": len(values), "sum": math.fsum(values), "min": min(values), "max": max(values)}

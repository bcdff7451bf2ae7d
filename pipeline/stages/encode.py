"""Encode a shard: clips in, posteriors out (mirrored too where asked), non-finite ones rejected, moments summed.

Axes: B batch, T' x H' x W' the grid of tubelets, K latent channels; pixels of a clip are [T, H, W, C].
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.media.reject import RejectClip
from pipeline.stages.clip_source import ClipSource, in_batches, read_ahead
from pipeline.stages.stage import ShardReport, StepClock, reject_clip
from pipeline.stages.tokenizer import Inference, PendingPosterior, Tokenizer
from pipeline.store.clipshard import Clip
from pipeline.store.files import Folder
from pipeline.store.latentshard import SUFFIXES, LatentShardWriter, ParquetLatentWriter, StoreFormat, TarLatentWriter
from pipeline.store.ledger import OutcomeRow, commit_shard
from pipeline.store.moments import ChannelMoments
from pipeline.store.planned_shards import PlannedShard
from schemas.clip import ClipMetadata
from schemas.latent import FLIP_SUFFIX, latent_schema
from schemas.outcome import Reason, Stage
from vitok.config import Grid

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentFormat:
    """How posteriors are stored; part of the fingerprint."""

    format: StoreFormat = "parquet"
    dtype: str = "float16"
    columns: tuple[str, ...] = ("mean",)
    """Latent columns, in their order (`schemas.latent.latent_columns`)."""
    passed: Mapping[str, str] = field(default_factory=dict)
    """Pass-through columns of the clip store, by name and type."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Batch:
    """A batch of a shard whose forward passes have begun."""

    clips: Sequence[ClipMetadata | OutcomeRow]
    """In order; in the place of one that was lost, what became of it."""
    posteriors: Mapping[str, PendingPosterior]
    """By the suffix of their columns: of the clips as they are, and mirrored; none where all were lost."""


class EncodeShard:
    """Posterior of every clip of a planned shard, written as one latent shard.

    A batch is submitted before the one before it is written: on a GPU decoding and writing go on beside the forward
    pass.
    """

    def __init__(
        self,
        *,
        source: ClipSource,
        output: Folder,
        tokenizer_url: str,
        inference: Inference,
        channels: int,
        latent: LatentFormat,
    ) -> None:
        clock = StepClock()
        with clock.step("weights"):
            self._tokenizer = Tokenizer(tokenizer_url, inference)
        self._start_seconds = clock.seconds
        self._source = source
        self._output = output
        self._channels = channels
        self._latent = latent

    def __call__(self, shard: PlannedShard) -> ShardReport:
        """Encode, write and commit one shard."""
        clock = StepClock()
        clock.seconds, self._start_seconds = self._start_seconds, {}
        moments = ChannelMoments.empty(self._channels)
        outcomes: list[OutcomeRow] = []
        path = shard.name + SUFFIXES[self._latent.format]
        batch_size = self._tokenizer.inference.batch_size
        with self._output.stage(path) as staged, read_ahead(self._source(shard), batch_size) as results:
            writer = self._writer(staged.stream, shard)
            for batch in one_behind(self._submitted(in_batches(results, batch_size), clock)):
                with clock.step("encode"):
                    values, views = self._columns(batch)
                with clock.step("write"):
                    for row, clip in enumerate(batch.clips):
                        if isinstance(clip, OutcomeRow):
                            outcomes.append(clip)
                            continue
                        nonfinite = [name for name, view in views.items() if not np.isfinite(view[row]).all()]
                        if not nonfinite:
                            writer.write(clip, {name: array[row] for name, array in values.items()})
                            moments = moments.merge(ChannelMoments.of(views["mean"][row]))
                        else:
                            moments = moments.merge(ChannelMoments.nonfinite(views["mean"][row]))
                            message = f"NaN or Inf in {', '.join(nonfinite)} as {self._latent.dtype}"
                            error = RejectClip(Reason.NONFINITE_LATENT, message)
                            outcomes.append(reject_clip(error, clip, Stage.ENCODE))
            with clock.step("commit"):
                writer.close()
                file = staged.commit() if writer.num_clips else None
        with clock.step("commit"):
            record = commit_shard(
                self._output,
                shard,
                file=file,
                stored=writer.num_clips,
                outcomes=outcomes,
                sums={"moments": moments.to_json()},
            )
        return ShardReport(record=record, seconds=clock.seconds)

    def _writer(self, stream: BinaryIO, shard: PlannedShard) -> LatentShardWriter:
        if self._latent.format == "webdataset":
            return TarLatentWriter(
                stream, passed=self._latent.passed, columns=self._latent.columns, dtype=self._latent.dtype
            )
        grid = Grid.parse(shard.bucket.removeprefix("grid="))
        shape = (grid.frames, grid.height, grid.width, self._channels)
        schema = latent_schema(
            passed=self._latent.passed, shape=shape, dtype=self._latent.dtype, columns=self._latent.columns
        )
        return ParquetLatentWriter(stream, schema, passed=self._latent.passed)

    def _submitted(self, batches: Iterator[list[Clip | OutcomeRow]], clock: StepClock) -> Iterator[_Batch]:
        """Batches, each given as soon as its forward passes have begun."""
        for batch in clock.pulled("decode", batches):
            with clock.step("encode"):
                submitted = _Batch(
                    clips=[clip.metadata if isinstance(clip, Clip) else clip for clip in batch],
                    posteriors=self._submit(batch),
                )
            yield submitted

    def _submit(self, batch: Sequence[Clip | OutcomeRow]) -> dict[str, PendingPosterior]:
        sound = [clip for clip in batch if isinstance(clip, Clip)]
        if not sound:
            return {}
        # The place of a clip that was lost is kept, by another's pixels: where a clip stands in its batch is planned.
        clips = [clip if isinstance(clip, Clip) else sound[0] for clip in batch]
        posteriors = {"": self._tokenizer.submit(clips)}
        if any(name.endswith(FLIP_SUFFIX) for name in self._latent.columns):
            # A pass of its own, of the same shape: the columns of the clip as it is keep the bits they have without.
            posteriors[FLIP_SUFFIX] = self._tokenizer.submit([_mirror(clip) for clip in clips])
        return posteriors

    def _columns(self, batch: _Batch) -> tuple[dict[str, NDArray[np.generic]], dict[str, NDArray[np.float32]]]:
        """By column: the arrays to store, [B, T', H', W', K], and what they are worth after rounding, as float32.

        Rows of clips that were lost mean nothing; there is no column where all were.
        """
        if not batch.posteriors:
            return {}, {}
        by_column: dict[str, torch.Tensor | None] = {}
        for suffix, pending in batch.posteriors.items():
            posterior = pending.result()
            by_column |= {"mean" + suffix: posterior.mean, "logvar" + suffix: posterior.logvar}
        dtype: torch.dtype = getattr(torch, self._latent.dtype)
        stored = {}
        for name in self._latent.columns:
            values = by_column[name]
            assert values is not None, "the job refuses columns that its tokenizer lacks"
            stored[name] = values.to(dtype)
        views = {name: tensor.float().numpy() for name, tensor in stored.items()}
        # numpy has no bfloat16: its 16 bits travel as uint16.
        bits = {
            name: (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
            for name, tensor in stored.items()
        }
        return bits, views


def one_behind(items: Iterable[Item]) -> Iterator[Item]:
    """The items in their order, each only when the next one is there, or the end."""
    held: list[Item] = []
    for item in items:
        yield from held
        held = [item]
    yield from held


def _mirror(clip: Clip) -> Clip:
    """The clip with left and right exchanged."""
    return replace(clip, pixels=clip.pixels[:, :, ::-1])

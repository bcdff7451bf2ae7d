"""Encode a shard: clips in, posteriors out (mirrored too where asked), non-finite ones rejected, moments summed.

Axes: B batch, T' x H' x W' the grid of tubelets, K latent channels; pixels of a clip are [T, H, W, C].
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.media.reject import RejectClip
from pipeline.stages.clip_source import ClipSource, in_batches, read_ahead
from pipeline.stages.stage import ShardReport, StepClock, reject_clip
from pipeline.stages.tokenizer import Inference, Tokenizer
from pipeline.store.clipshard import Clip
from pipeline.store.files import Folder
from pipeline.store.latentshard import SUFFIXES, LatentShardWriter, ParquetLatentWriter, StoreFormat, TarLatentWriter
from pipeline.store.ledger import OutcomeRow, commit_shard
from pipeline.store.moments import ChannelMoments
from pipeline.store.planned_shards import PlannedShard
from schemas.latent import FLIP_SUFFIX, latent_schema
from schemas.outcome import Reason, Stage
from vitok.config import Grid


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentFormat:
    """How posteriors are stored; part of the fingerprint."""

    format: StoreFormat = "parquet"
    dtype: str = "float16"
    columns: tuple[str, ...] = ("mean",)
    """Latent columns, in their order (`schemas.latent.latent_columns`)."""
    passed: Mapping[str, str] = field(default_factory=dict)
    """Pass-through columns of the clip store, by name and type."""


class EncodeShard:
    """Posterior of every clip of a planned shard, written as one latent shard."""

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
            for batch in clock.pulled("decode", in_batches(results, batch_size)):
                with clock.step("encode"):
                    values, views = self._posteriors(batch)
                with clock.step("write"):
                    for row, clip in enumerate(batch):
                        if isinstance(clip, OutcomeRow):
                            outcomes.append(clip)
                            continue
                        nonfinite = [name for name, view in views.items() if not np.isfinite(view[row]).all()]
                        if not nonfinite:
                            writer.write(clip.metadata, {name: array[row] for name, array in values.items()})
                            moments = moments.merge(ChannelMoments.of(views["mean"][row]))
                        else:
                            moments = moments.merge(ChannelMoments.nonfinite(views["mean"][row]))
                            message = f"NaN or Inf in {', '.join(nonfinite)} as {self._latent.dtype}"
                            error = RejectClip(Reason.NONFINITE_LATENT, message)
                            outcomes.append(reject_clip(error, clip.metadata, Stage.ENCODE))
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

    def _posteriors(
        self, batch: Sequence[Clip | OutcomeRow]
    ) -> tuple[dict[str, NDArray[np.generic]], dict[str, NDArray[np.float32]]]:
        """By column: the arrays to store, [B, T', H', W', K], and what they are worth after rounding, as float32.

        Rows of clips that were lost mean nothing; there is no column where all were.
        """
        sound = [clip for clip in batch if isinstance(clip, Clip)]
        if not sound:
            return {}, {}
        # The place of a clip that was lost is kept, by another's pixels: where a clip stands in its batch is planned.
        clips = [clip if isinstance(clip, Clip) else sound[0] for clip in batch]
        dtype: torch.dtype = getattr(torch, self._latent.dtype)
        posterior = self._tokenizer.encode(clips)
        by_column = {"mean": posterior.mean, "logvar": posterior.logvar}
        if any(name.endswith(FLIP_SUFFIX) for name in self._latent.columns):
            # A pass of its own, of the same shape: the columns of the clip as it is keep the bits they have without.
            mirrored = self._tokenizer.encode([_mirror(clip) for clip in clips])
            by_column |= {"mean" + FLIP_SUFFIX: mirrored.mean, "logvar" + FLIP_SUFFIX: mirrored.logvar}
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


def _mirror(clip: Clip) -> Clip:
    """The clip with left and right exchanged."""
    return replace(clip, pixels=clip.pixels[:, :, ::-1])

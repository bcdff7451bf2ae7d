"""Reconstruct a shard: encode, decode, measure every clip."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.media.reject import RejectClip
from pipeline.stages.stage import ShardReport, StepClock, reject_clip
from pipeline.stages.tokenizer import Inference, Tokenizer
from pipeline.store.clipshard import Clip
from pipeline.store.files import Folder
from pipeline.store.ledger import OutcomeRow, commit_shard
from pipeline.store.plan import PlannedShard, write_table
from schemas.latent import audit_schema, clip_row
from schemas.outcome import Reason, Stage
from vitok.metrics.registry import PIXEL_METRICS
from vitok.pixels import to_uint8


def reconstruct(tokenizer: Tokenizer, clips: Sequence[Clip]) -> list[NDArray[np.uint8] | RejectClip]:
    """Reconstructions [T, H, W, 3] of clips of one shape; a clip that comes out as NaN or Inf is its own reject.

    The latent is the posterior's mean, as in the paper's evaluation.
    """
    latent = tokenizer.encode(clips).mode()
    decoded = tokenizer.decode(latent, num_frames=len(clips[0].pixels))
    return [
        to_uint8(pixels[None])[0].numpy()
        if pixels.isfinite().all()
        else RejectClip(Reason.NONFINITE_RECONSTRUCTION, "NaN or Inf among the decoded pixels")
        for pixels in decoded
    ]


class ReconstructShard:
    """Metrics of every clip of a planned shard, written as one Parquet file."""

    def __init__(
        self,
        *,
        source: Folder,
        output: Folder,
        tokenizer_url: str,
        inference: Inference,
        passed: Mapping[str, str],
        metrics: tuple[str, ...],
    ) -> None:
        clock = StepClock()
        with clock.step("weights"):
            self._tokenizer = Tokenizer(tokenizer_url, inference)
        self._start_seconds = clock.seconds
        self._source = source
        self._output = output
        self._passed = passed
        self._metrics = metrics

    def __call__(self, shard: PlannedShard) -> ShardReport:
        """Measure, write and commit one shard."""
        clock = StepClock()
        clock.seconds, self._start_seconds = self._start_seconds, {}
        rows: list[dict[str, object]] = []
        outcomes: list[OutcomeRow] = []
        for clips in clock.pulled("decode", self._tokenizer.batches(self._source, shard)):
            with clock.step("reconstruct"):
                reconstructions = reconstruct(self._tokenizer, clips)
            with clock.step("measure"):
                for clip, result in zip(clips, reconstructions, strict=True):
                    if isinstance(result, RejectClip):
                        outcomes.append(reject_clip(result, clip.metadata, Stage.RECONSTRUCT))
                    else:
                        rows.append(clip_row(clip.metadata, self._passed) | self._measure(clip.pixels, result))
        with clock.step("commit"):
            table = pa.Table.from_pylist(rows, schema=audit_schema(passed=self._passed, metrics=self._metrics))
            record = commit_shard(
                self._output,
                shard,
                file=write_table(self._output, shard.name + ".parquet", table) if rows else None,
                stored=len(rows),
                outcomes=outcomes,
                sums={name: math.fsum(table.column(name).to_pylist()) for name in self._metrics},
            )
        return ShardReport(record=record, seconds=clock.seconds)

    def _measure(self, original: NDArray[np.uint8], reconstruction: NDArray[np.uint8]) -> dict[str, object]:
        return {name: PIXEL_METRICS[name](original[None], reconstruction[None]).item() for name in self._metrics}

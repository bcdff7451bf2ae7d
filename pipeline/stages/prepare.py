"""Prepare a shard: decode the planned clips of its media, resize them, write them as one clip shard."""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from pipeline.media.guard import MediaLimits
from pipeline.media.image import decode_image
from pipeline.media.reject import RejectClip
from pipeline.media.resize import ResizeProtocol, resize_frames
from pipeline.media.source import MediaKind, open_media, read_media, sha256_of
from pipeline.media.span import ClipSpan
from pipeline.media.video import decode_clips
from pipeline.stages.stage import ShardReport, StepClock, reject_row
from pipeline.store.clipshard import Clip, ClipShardWriter, PixelCodec
from pipeline.store.files import Folder
from pipeline.store.ledger import OutcomeRow, commit_shard
from pipeline.store.plan import PlannedClip, PlannedShard, read_planned_clips
from schemas.clip import ClipMetadata
from schemas.outcome import Stage


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipProtocol:
    """What makes clips of media; part of the fingerprint and of the store's record."""

    resize: ResizeProtocol
    num_frames: int
    fps: Fraction
    codec: PixelCodec
    limits: MediaLimits


@dataclass(frozen=True, kw_only=True, slots=True)
class _Decoded:
    """A clip as its media gave it, before the resize."""

    frames: NDArray[np.uint8]
    """[T, H, W, 3], upright."""
    orientation: int
    media_sha256: str


class PrepareShard:
    """Every clip of a planned shard, decoded and resized, written as one tar."""

    def __init__(self, *, output: Folder, protocol: ClipProtocol) -> None:
        self._output = output
        self._protocol = protocol

    def __call__(self, shard: PlannedShard) -> ShardReport:
        """Decode, write and commit one shard."""
        clock = StepClock()
        outcomes: list[OutcomeRow] = []
        planned = read_planned_clips(self._output, shard)
        with self._output.stage(shard.name + ".tar") as staged:
            writer = ClipShardWriter(staged.stream, self._protocol.codec)
            for _, group in itertools.groupby(planned, key=lambda clip: clip.media_uri):
                rows = list(group)
                results = self._clips(rows)
                for row in rows:
                    with clock.step("decode"):
                        result = next(results)
                    if isinstance(result, Clip):
                        with clock.step("write"):
                            writer.write(result)
                    else:
                        outcomes.append(_rejected(row, result))
            with clock.step("commit"):
                writer.close()
                file = staged.commit() if writer.num_clips else None
        with clock.step("commit"):
            record = commit_shard(self._output, shard, file=file, stored=writer.num_clips, outcomes=outcomes, sums={})
        return ShardReport(record=record, seconds=clock.seconds)

    def _clips(self, rows: Sequence[PlannedClip]) -> Iterator[Clip | RejectClip]:
        """One result for each planned clip of one media."""
        try:
            kind = MediaKind(rows[0].kind)
            decoded = self._image(rows) if kind is MediaKind.IMAGE else self._video(rows)
            for row in rows:
                result = next(decoded)
                yield self._resized(row, result) if isinstance(result, _Decoded) else result
        except RejectClip as error:
            # The media itself failed: that is the end of all its clips not yet given.
            yield from itertools.repeat(error)

    def _image(self, rows: Sequence[PlannedClip]) -> Iterator[_Decoded | RejectClip]:
        (row,) = rows
        data = read_media(row.media_uri, self._protocol.limits.max_bytes)
        image = decode_image(data, self._protocol.limits)
        yield _Decoded(
            frames=image.pixels[np.newaxis],
            orientation=image.orientation,
            media_sha256=hashlib.sha256(data).hexdigest(),
        )

    def _video(self, rows: Sequence[PlannedClip]) -> Iterator[_Decoded | RejectClip]:
        protocol = self._protocol
        spans = [ClipSpan.at(row.clip_index, protocol.fps, protocol.num_frames) for row in rows]
        with open_media(rows[0].media_uri) as file:
            media_sha256 = sha256_of(file)
            for result in decode_clips(file, spans, protocol.fps, protocol.num_frames, protocol.limits):
                if isinstance(result, RejectClip):
                    yield result
                else:
                    yield _Decoded(frames=result.frames, orientation=result.orientation, media_sha256=media_sha256)

    def _resized(self, row: PlannedClip, decoded: _Decoded) -> Clip | RejectClip:
        try:
            resized = resize_frames(decoded.frames, self._protocol.resize)
        except RejectClip as error:
            return error
        num_frames, height, width, _ = resized.pixels.shape
        _, source_height, source_width, _ = decoded.frames.shape
        return Clip(
            pixels=resized.pixels,
            metadata=ClipMetadata(
                key=row.key,
                media_uri=row.media_uri,
                media_sha256=decoded.media_sha256,
                clip_index=row.clip_index,
                start_seconds=row.start_seconds,
                end_seconds=row.end_seconds,
                fps=None if row.start_seconds is None else float(self._protocol.fps),
                num_frames=num_frames,
                height=height,
                width=width,
                source_height=source_height,
                source_width=source_width,
                orientation=decoded.orientation,
                crop_left=resized.crop.left,
                crop_top=resized.crop.top,
                crop_right=resized.crop.right,
                crop_bottom=resized.crop.bottom,
            ),
        )


def _rejected(row: PlannedClip, error: RejectClip) -> OutcomeRow:
    return reject_row(
        error,
        key=row.key,
        media_uri=row.media_uri,
        start_seconds=row.start_seconds,
        end_seconds=row.end_seconds,
        stage=Stage.DECODE,
    )

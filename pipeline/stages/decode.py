"""Decode a media: its planned clips, resized and, where they go into a shard, coded; or why not. Runs in a sandbox."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.media.image import decode_image
from pipeline.media.motion import is_frozen, is_near_black
from pipeline.media.reject import RejectClip
from pipeline.media.resize import CropBox, resize_frames
from pipeline.media.retry import RetryPolicy
from pipeline.media.source import MediaKind, MediaOpener, sha256_of
from pipeline.media.span import ClipSpan
from pipeline.media.video import decode_clips
from pipeline.stages.protocol import ClipProtocol
from pipeline.store.clipshard import Clip, CodedClip, code_clip
from pipeline.store.planned_clips import PlannedClip
from schemas.clip import ClipMetadata
from schemas.outcome import Reason


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedMedia:
    """The planned clips of one media, in order, and the size they are planned for."""

    clips: Sequence[PlannedClip]
    size: tuple[int, int]
    """Height and width in pixels."""


class DecodeMedia:
    """From the planned clips of one media to as many results, in order."""

    def __init__(self, protocol: ClipProtocol, policy: RetryPolicy) -> None:
        self._protocol = protocol
        self._opener = MediaOpener(policy=policy)

    def __call__(self, planned: PlannedMedia) -> Iterator[Clip | RejectClip]:
        """One result for each clip.

        Raises:
            RejectClip: The media itself failed: that is the end of all its clips not yet given.
        """
        image = planned.clips[0].media.kind is MediaKind.IMAGE
        for clip in self._image(planned) if image else self._video(planned):
            if isinstance(clip, RejectClip):
                yield clip
            else:
                yield self._unwanted(clip.pixels) or clip

    def _unwanted(self, pixels: NDArray[np.uint8]) -> RejectClip | None:
        filters = self._protocol.filters
        if filters.near_black and is_near_black(pixels, filters.near_black):
            return RejectClip(Reason.NEAR_BLACK, f"no frame has a mean luma of {filters.near_black:g}")
        if filters.frozen and is_frozen(pixels, filters.frozen):
            return RejectClip(Reason.FROZEN, f"no frame differs from the one before by {filters.frozen:g} in the mean")
        return None

    def _image(self, planned: PlannedMedia) -> Iterator[Clip]:
        (row,) = planned.clips
        protocol = self._protocol
        data = self._opener.read(row.media, protocol.limits.max_bytes)
        # The box kernel sees the pixels' own grid, which scaled decoding changes.
        cover = planned.size if protocol.resize.scaled_decoding else None
        image = decode_image(data, protocol.limits, cover=cover)
        source = (image.source_height, image.source_width)
        resized = resize_frames(image.pixels[np.newaxis], planned.size, protocol.resize.kernel, source=source)
        yield _clip(
            row,
            resized.pixels,
            media_sha256=hashlib.sha256(data).hexdigest(),
            span=None,
            source=source,
            orientation=image.orientation,
            pixel_aspect=1.0,
            color=image.color,
            interlaced=False,
            crop=resized.crop,
        )

    def _video(self, planned: PlannedMedia) -> Iterator[Clip | RejectClip]:
        protocol, rows = self._protocol, planned.clips
        crop: CropBox | None = None

        def resize(frame: NDArray[np.uint8], pixel_aspect: float) -> NDArray[np.uint8]:
            nonlocal crop
            kernel = protocol.resize.kernel
            resized = resize_frames(frame[np.newaxis], planned.size, kernel, pixel_aspect=pixel_aspect)
            crop = resized.crop
            pixels: NDArray[np.uint8] = resized.pixels[0]
            return pixels

        spans = [_span(row, protocol) for row in rows]
        with self._opener.open(rows[0].media) as file:
            media_sha256 = sha256_of(file)
            results = decode_clips(file, spans, protocol.limits, decoder=protocol.decoder, prepare_frame=resize)
            for row, span, result in zip(rows, spans, results, strict=True):
                if isinstance(result, RejectClip):
                    yield result
                    continue
                assert crop is not None
                yield _clip(
                    row,
                    result.frames,
                    media_sha256=media_sha256,
                    span=span,
                    source=(result.source_height, result.source_width),
                    orientation=result.orientation,
                    pixel_aspect=result.pixel_aspect,
                    color=result.color,
                    interlaced=result.interlaced,
                    crop=crop,
                )


class CodeMedia:
    """The same, each clip as it will stand in a clip shard."""

    def __init__(self, protocol: ClipProtocol, policy: RetryPolicy) -> None:
        assert protocol.codec is not None, "clips that are stored have a codec"
        self._codec = protocol.codec
        self._decode = DecodeMedia(protocol, policy)

    def __call__(self, planned: PlannedMedia) -> Iterator[CodedClip | RejectClip]:
        """One result for each clip; raises as `DecodeMedia`."""
        for clip in self._decode(planned):
            yield clip if isinstance(clip, RejectClip) else code_clip(clip, self._codec)


def _span(row: PlannedClip, protocol: ClipProtocol) -> ClipSpan:
    assert row.first_frame is not None
    return ClipSpan(index=row.clip_index, first_frame=row.first_frame, num_frames=protocol.num_frames, fps=protocol.fps)


def _clip(
    row: PlannedClip,
    pixels: NDArray[np.uint8],
    *,
    media_sha256: str,
    span: ClipSpan | None,
    source: tuple[int, int],
    orientation: int,
    pixel_aspect: float,
    color: str,
    interlaced: bool,
    crop: CropBox,
) -> Clip:
    num_frames, height, width, _ = pixels.shape
    return Clip(
        pixels=pixels,
        metadata=ClipMetadata(
            key=row.key,
            media_uri=row.media.uri,
            media_sha256=media_sha256,
            clip_index=row.clip_index,
            start_seconds=None if span is None else float(span.start_seconds),
            end_seconds=None if span is None else float(span.end_seconds),
            fps=None if span is None else float(span.fps),
            num_frames=num_frames,
            height=height,
            width=width,
            source_height=source[0],
            source_width=source[1],
            orientation=orientation,
            pixel_aspect=pixel_aspect,
            color=color,
            interlaced=interlaced,
            crop_left=crop.left,
            crop_top=crop.top,
            crop_right=crop.right,
            crop_bottom=crop.bottom,
            label=row.media.label,
            caption=row.media.caption,
            columns=dict(row.media.columns),
        ),
    )

"""Probe media: which clips one gives, or why it gives none. Runs while planning, in a sandbox."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from pipeline.media.image import decode_image, probe_image
from pipeline.media.keys import media_key
from pipeline.media.reject import RejectClip
from pipeline.media.retry import RetryPolicy
from pipeline.media.scenes import scene_cuts
from pipeline.media.similar import perceptual_hash
from pipeline.media.source import Media, MediaKind, MediaOpener, sha256_of
from pipeline.media.span import ClipSpan, plan_spans
from pipeline.media.video import VideoFacts, decode_clips, probe_video
from pipeline.stages.protocol import ClipProtocol
from schemas.outcome import Reason

_HASHED_SIZE = (256, 256)
"""Pixels to which an image is decoded, at least, before its perceptual hash is taken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Probed:
    """What planning needs to know of a media."""

    size: tuple[int, int]
    """Height and width that its clips are resized to."""
    first_frames: tuple[int | None, ...]
    """Start of each clip in frames at the clip's rate; one None for an image."""
    content: str | None = None
    """Sha256 of the bytes, where duplicates are looked for."""
    looks: int | None = None
    """Perceptual hash, where near duplicates are looked for."""


class ProbeMedia:
    """Opens a media and says which clips it gives."""

    def __init__(self, protocol: ClipProtocol, policy: RetryPolicy) -> None:
        self._protocol = protocol
        self._opener = MediaOpener(policy=policy)

    def __call__(self, media: Media) -> Iterator[Probed]:
        """One result.

        Raises:
            RejectClip: The media gives no clip.
        """
        unopened = probe_unopened(media, self._protocol)
        if unopened is not None:
            yield unopened
        elif media.kind is MediaKind.IMAGE:
            yield self._image(media)
        else:
            yield self._video(media)

    def _image(self, media: Media) -> Probed:
        protocol = self._protocol
        content = looks = None
        with self._opener.open(media) as file:
            facts = probe_image(file, protocol.limits)
            self._check_shape(facts.height, facts.width)
            if protocol.filters.duplicates != "keep":
                content = sha256_of(file)
            if protocol.filters.duplicates == "near":
                data = self._opener.read(media, protocol.limits.max_bytes)
                looks = perceptual_hash(decode_image(data, protocol.limits, cover=_HASHED_SIZE).pixels)
        size = protocol.resize.size_for(facts.height, facts.width)
        return Probed(size=size, first_frames=(None,), content=content, looks=looks)

    def _video(self, media: Media) -> Probed:
        protocol, filters = self._protocol, self._protocol.filters
        content = looks = None
        with self._opener.open(media) as file:
            facts = probe_video(file, protocol.limits)
            self._check_shape(facts.height, facts.width * facts.pixel_aspect)
            if filters.min_seconds and facts.duration_seconds < filters.min_seconds:
                raise RejectClip(Reason.TOO_SHORT, f"{_lasts(facts)}, wanted are {filters.min_seconds:g} s or more")
            if filters.max_seconds and facts.duration_seconds > filters.max_seconds:
                raise RejectClip(Reason.TOO_LONG, f"{_lasts(facts)}, wanted are {filters.max_seconds:g} s or less")
            cuts = scene_cuts(file, protocol.limits, protocol.scene_threshold) if protocol.scene_threshold else []
            spans = plan_spans(
                facts.duration_seconds,
                protocol.fps,
                protocol.num_frames,
                protocol.spans,
                media_key=media_key(media.uri),
                timestamps=_timestamps(media, protocol.timestamps),
                cuts=cuts,
            )
            if not spans:
                needed = float(protocol.num_frames / protocol.fps)
                raise RejectClip(Reason.TOO_SHORT, f"{_lasts(facts)}, one clip takes {needed:.3f} s")
            if filters.duplicates != "keep":
                content = sha256_of(file)
            if filters.duplicates == "near":
                looks = perceptual_hash(self._frame_in(spans, media))
        return Probed(
            size=protocol.resize.size_for(facts.height, facts.width, facts.pixel_aspect),
            first_frames=tuple(span.first_frame for span in spans),
            content=content,
            looks=looks,
        )

    def _check_shape(self, height: float, width: float) -> None:
        filters = self._protocol.filters
        short, long = sorted((height, width))
        if short < filters.min_side:
            raise RejectClip(Reason.TOO_SMALL, f"{height:g}x{width:g} pixels, wanted is a side of {filters.min_side}")
        if filters.max_aspect and long > filters.max_aspect * short:
            raise RejectClip(Reason.ASPECT, f"{height:g}x{width:g} pixels, wanted is {filters.max_aspect:g} to 1")

    def _frame_in(self, spans: Sequence[ClipSpan], media: Media) -> NDArray[np.uint8]:
        """The first frame of the clip in the middle."""
        middle = spans[len(spans) // 2]
        span = ClipSpan(index=0, first_frame=middle.first_frame, num_frames=1, fps=middle.fps)
        with self._opener.open(media) as file:
            (clip,) = decode_clips(file, [span], self._protocol.limits, decoder=self._protocol.decoder)
        if isinstance(clip, RejectClip):
            raise clip
        frame: NDArray[np.uint8] = clip.frames[0]
        return frame


def probe_unopened(media: Media, protocol: ClipProtocol) -> Probed | None:
    """What is known of a media without opening it; None where that is too little."""
    filters = protocol.filters
    shapes = len(protocol.resize.sizes) > 1 or filters.min_side or filters.max_aspect
    if media.kind is MediaKind.VIDEO or shapes or filters.duplicates != "keep":
        return None
    return Probed(size=protocol.resize.sizes[0], first_frames=(None,))


def _lasts(facts: VideoFacts) -> str:
    return f"lasts {float(facts.duration_seconds):.3f} s"


def _timestamps(media: Media, column: str | None) -> list[float]:
    """Times in seconds that a media's column names: a number, or a list of them."""
    if column is None:
        return []
    value = media.columns.get(column)
    values = value if isinstance(value, list) else [value]
    try:
        times = [float(cast(float, entry)) for entry in values if entry is not None]
    except (TypeError, ValueError):
        times = [math.nan]
    if not all(map(math.isfinite, times)):
        raise RejectClip(Reason.CORRUPT, f"column {column} holds {value!r}, expected seconds")
    return times

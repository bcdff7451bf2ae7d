"""What the tests of videos share: clips decoded from a file, and videos made of given frames."""

from fractions import Fraction
from io import BytesIO

import av

from pipeline.media.guard import MediaLimits
from pipeline.media.reject import RejectClip
from pipeline.media.span import ClipSpan, SpanPolicy, plan_spans
from pipeline.media.video import decode_clips, probe_video

LIMITS = MediaLimits()
FPS = Fraction(8)


def nth(index, fps=FPS, num_frames=4):
    """Clip `index` where clips follow each other without a gap."""
    return ClipSpan(index=index, first_frame=index * num_frames, num_frames=num_frames, fps=fps)


def whole_clips(seconds, fps=FPS, num_frames=4):
    return plan_spans(Fraction(seconds), fps, num_frames, SpanPolicy(kind="all"), media_key="")


def decoded(path, spans, limits=LIMITS, **more):
    with path.open("rb") as file:
        results = list(decode_clips(file, spans, limits, **more))
    assert len(results) == len(spans)
    return results


def clips(path, *, fps=FPS, num_frames=16, spans=None, limits=LIMITS):
    if spans is None:
        spans = whole_clips(probed(path, limits).duration_seconds, fps, num_frames)
    return frames_of(decoded(path, spans, limits))


def probed(path, limits=LIMITS):
    with path.open("rb") as file:
        return probe_video(file, limits)


def frames_of(results):
    return [result if isinstance(result, RejectClip) else result.frames for result in results]


def made(frames, *, rate=10, kind="matroska", codec="ffv1", pts=None, **options):
    """A lossless video of given [H, W, 3] frames."""
    buffer = BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "bgr0"
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="bgr0")
            frame.pts = index if pts is None else pts[index]
            frame.time_base = Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def decode_bytes(data, spans, limits=LIMITS):
    return frames_of(decode_clips(BytesIO(data), spans, limits))

"""Scene cuts: where a video's shots begin, by FFmpeg's scene filter, so that a clip need span none."""

from fractions import Fraction
from typing import BinaryIO

import av
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from pipeline.media.container import AV_FAILURES, check_pixels, failure_message, open_video
from pipeline.media.frames import Shows
from pipeline.media.guard import MediaLimits
from pipeline.media.reject import RejectClip
from schemas.outcome import Reason

# What the filter reads without a conversion of its own, which would fail on tags that nobody knows. It compares luma.
_FORMAT = "yuv420p"


def scene_cuts(file: BinaryIO, limits: MediaLimits, threshold: float) -> list[Fraction]:
    """Times in seconds from the first frame at which a new shot starts, ascending; the first shot's 0 is not given.

    Decodes the whole video, two frames held at a time. A change of size is a cut too. A fault in the stream is passed
    over, as `decode_clips` does: what lies around it is compared across it.

    Args:
        file: Seekable.
        limits: Those of opening and of a frame's pixels apply, and `max_duration_seconds` to the times met.
        threshold: Of FFmpeg's scene score (`select=gt(scene,T)`), in (0, 1): 0.3 to 0.5 for plain cuts.

    Raises:
        ValueError: The threshold is not in (0, 1).
        RejectClip: As `open_video`, or `corrupt` where no frame decodes; `too_large`.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"scene threshold: got {threshold}, expected a score between 0 and 1, such as 0.4")
    cuts: list[Fraction] = []
    with open_video(file, limits) as video:
        zero_seconds: Fraction | None = None
        size: tuple[int, int] | None = None
        graph = Graph()
        reformatter = VideoReformatter()
        for show in Shows(video):
            if show.frame is None:
                continue
            check_pixels(show.frame.height, show.frame.width, limits)
            if zero_seconds is None:
                zero_seconds = show.start_seconds
            seconds = show.start_seconds - zero_seconds
            if seconds > limits.max_duration_seconds:
                raise RejectClip(Reason.TOO_LARGE, f"{float(seconds)} s, limit {limits.max_duration_seconds}")
            before, size = size, (show.frame.height, show.frame.width)
            try:
                frame = reformatter.reformat(show.frame, format=_FORMAT, threads=1)
                if size != before:
                    graph = _scene_graph(frame, threshold)
                is_cut = _passes(graph, frame) or before not in (None, size)
            except AV_FAILURES as error:
                raise RejectClip(Reason.CORRUPT, failure_message(error)) from error
            if is_cut and seconds > (cuts[-1] if cuts else 0):
                cuts.append(seconds)
    return cuts


def _scene_graph(frame: VideoFrame, threshold: float) -> Graph:
    """A graph that lets through the frames that begin a shot."""
    graph = Graph()
    graph.threads = 1
    graph.link_nodes(
        graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1)
        ),
        graph.add("select", f"gt(scene\\,{threshold:.6f})"),
        graph.add("buffersink"),
    ).configure()
    return graph


def _passes(graph: Graph, frame: VideoFrame) -> bool:
    graph.vpush(frame)
    try:
        graph.vpull()
    except av.BlockingIOError:
        return False
    return True

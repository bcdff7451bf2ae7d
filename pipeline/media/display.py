"""How a stored frame is to be displayed: turned, and stretched by the shape of its pixels."""

import struct
from fractions import Fraction

from av.sidedata.sidedata import SideDataContainer
from av.video.frame import VideoFrame


def side_data_of(frame: VideoFrame, kind: str) -> bytes | None:
    """What a decoder attached to the frame, by FFmpeg's name of it; None where it attached none."""
    # `frame.side_data` and the frame hold each other: until the collector comes by, which counts objects and not
    # bytes, that is 12 MB lost with each frame of 4K.
    try:
        return bytes(SideDataContainer(frame)[kind])  # type: ignore[call-arg]  # PyAV's stub knows no arguments
    except KeyError:
        return None


def orientation_of(frame: VideoFrame) -> int:
    """EXIF orientation that the frame's display matrix asks for; turns that are no quarter go to the nearest."""
    matrix = side_data_of(frame, "DISPLAYMATRIX")
    if matrix is None:
        return 1
    # Row vectors: x' = a x + c y, y' = b x + d y, with y downwards.
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix)
    if abs(b) + abs(c) > abs(a) + abs(d):
        return {(False, False): 5, (True, False): 6, (True, True): 7, (False, True): 8}[c < 0, b < 0]
    return {(False, False): 1, (True, False): 2, (True, True): 3, (False, True): 4}[a < 0, d < 0]


def upright_size(frame: VideoFrame) -> tuple[int, int]:
    """Height and width after the turn."""
    return (frame.width, frame.height) if orientation_of(frame) >= 5 else (frame.height, frame.width)


def upright_aspect(frame: VideoFrame, pixel_aspect: Fraction) -> float:
    """Width over height of a pixel after the turn: a quarter turn inverts it.

    Args:
        frame: Gives the turn.
        pixel_aspect: Of the stored frame, positive.
    """
    return float(1 / pixel_aspect if orientation_of(frame) >= 5 else pixel_aspect)

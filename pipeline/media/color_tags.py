"""Colours of a video frame: what its tags say, and its pixels as 8-bit RGB by them.

A frame is read by its stream's own matrix (BT.601, BT.709, BT.2020, ...) and range (limited, full). Where the matrix is
untagged, frames of 720 rows and more are read as BT.709 and smaller ones as BT.601, as players do; where the range is
untagged, it is limited. The conversion is FFmpeg's (swscale, bicubic, without the flags for accurate rounding and
full chroma): to the last bit what the ffmpeg program makes of 8-bit 4:2:0, at 0.3 ms for 1280x720. Those flags take
4 ms to spread chroma between its samples, which a resize to a fraction of the size undoes.

More than 8 bits are rounded to 8 without dither. Alpha is dropped. HDR (PQ, HLG) is tone-mapped (`tone_map`). Code
values of SDR are taken for sRGB's as they are: neither its transfer curve nor its primaries are converted.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter
from numpy.typing import NDArray

from pipeline.media.container import AV_FAILURES, failure_message
from pipeline.media.display import side_data_of
from pipeline.media.reject import RejectClip
from pipeline.media.tone_map import Transfer, tone_map
from schemas.outcome import Reason

# Numbers of ISO/IEC 23091-2 ("matrix coefficients"), as streams carry them.
_MATRICES = {
    1: ("bt709", Colorspace.ITU709),
    4: ("fcc", Colorspace.FCC),
    5: ("bt601", Colorspace.ITU601),
    6: ("bt601", Colorspace.ITU601),
    7: ("smpte240m", Colorspace.SMPTE240M),
    9: ("bt2020", Colorspace.BT2020),
}
_COLORSPACES = dict(_MATRICES.values())
_RANGES = {False: ColorRange.MPEG, True: ColorRange.JPEG}
# 0 says RGB, which these frames are not; 3 is reserved.
_UNTAGGED = (0, 2, 3)
_HD_ROWS = 720

VIDEO_COLORS = (
    "8-bit RGB without dither, by the stream's matrix and range (untagged: BT.709 from 720 rows, else BT.601; "
    "limited); PQ and HLG tone-mapped to sRGB"
)
"""What `to_rgb` does, for a store's record."""

_TRANSFERS: dict[int, Transfer] = {int(ColorTrc.SMPTE2084): "pq", int(ColorTrc.ARIB_STD_B67): "hlg"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ColorTags:
    """How the numbers of a YUV or RGB frame are to be read."""

    matrix: str
    """As in `_MATRICES`; "rgb" where the frame is not YUV."""
    full_range: bool
    transfer: Transfer | Literal["sdr"]
    tagged: bool
    """Whether the stream names its matrix."""

    def __str__(self) -> str:
        """Such as "bt709 limited", "bt601 limited (untagged)", "bt2020 limited pq"."""
        words = [self.matrix, "full" if self.full_range else "limited"]
        if self.transfer != "sdr":
            words.append(self.transfer)
        if not self.tagged:
            words.append("(untagged)")
        return " ".join(words)


def color_tags(frame: VideoFrame) -> ColorTags:
    """The frame's tags, filled where they are missing.

    Raises:
        RejectClip: `unknown_format`: the matrix is one that nobody here converts (YCgCo, ICtCp, Dolby Vision's own).
    """
    transfer: Transfer | Literal["sdr"] = _TRANSFERS.get(frame.color_trc, "sdr")
    if frame.format.is_rgb:
        return ColorTags(matrix="rgb", full_range=True, transfer=transfer, tagged=True)
    full_range = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
    if frame.colorspace in _MATRICES:
        matrix, _ = _MATRICES[frame.colorspace]
        return ColorTags(matrix=matrix, full_range=full_range, transfer=transfer, tagged=True)
    # Dolby Vision's profile 5 leaves its matrix untagged and holds IPT: read as BT.709 it comes out green and purple.
    if frame.colorspace not in _UNTAGGED or side_data_of(frame, "DOVI_METADATA") is not None:
        raise RejectClip(Reason.UNKNOWN_FORMAT, f"colour matrix {frame.colorspace} of {frame.format.name}")
    matrix = "bt709" if frame.height >= _HD_ROWS else "bt601"
    return ColorTags(matrix=matrix, full_range=full_range, transfer=transfer, tagged=False)


def to_rgb(frame: VideoFrame, reformatter: VideoReformatter) -> NDArray[np.uint8]:
    """Pixels [H, W, 3] RGB as stored, not turned.

    Args:
        frame: In any pixel format.
        reformatter: Of this decoder: it keeps its tables from frame to frame.

    Raises:
        RejectClip: `corrupt` where the conversion fails, `unknown_format` as `color_tags`.
    """
    tags = color_tags(frame)
    hdr = tags.transfer != "sdr"
    try:
        pixels = reformatter.reformat(
            frame,
            format="rgb48le" if hdr else "rgb24",
            src_colorspace=None if tags.matrix == "rgb" else _COLORSPACES[tags.matrix],
            src_color_range=None if tags.matrix == "rgb" else _RANGES[tags.full_range],
            interpolation=Interpolation.BICUBIC,
            threads=1,
        ).to_ndarray()
    except AV_FAILURES as error:
        raise RejectClip(Reason.CORRUPT, failure_message(error)) from error
    if tags.transfer != "sdr":
        return tone_map(pixels.astype(np.uint16, copy=False), tags.transfer)
    return pixels.astype(np.uint8, copy=False)

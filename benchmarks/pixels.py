"""Pixels: what each codec of clips costs and keeps, what scaled decoding keeps, and images a second to 256 pixels.

    python benchmarks/pixels.py --photographs FOLDER --large FOLDER --json benchmarks/results/pixels.json

One process, one thread; a second is one of that process on its core, so that neighbours on the machine count little.
Three tables:

- codecs: the first 200 photographs as clips of one frame of 256 x 256, written to a shard in memory and read back;
  bytes include the tar and the JSON. PSNR against the pixels that went in, its mean and its worst.
- scaled decoding: decode_image(cover=...) and resize_frames against the same without cover; worst and median PSNR over
  all photographs of both folders that are decoded smaller at all.
- images a second, decode, resize and encode (JPEG 95, 4:4:4): ours beside a loop of simplejpeg and Pillow that checks
  nothing (no limit, no orientation, no profile, whole decode), and beside Pillow alone. "large" holds photographs of
  1800 x 1200 or so, which scaled decoding is for. Medians over runs, taken by turns.
"""

import argparse
import io
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import simplejpeg
from harness import Row, machine, table
from numpy.typing import NDArray
from PIL import Image

from pipeline.media.guard import MediaLimits
from pipeline.media.image import OVERSAMPLE, decode_image
from pipeline.media.reject import RejectClip
from pipeline.media.resize import Kernel, resize_frames
from pipeline.store.clipshard import Clip, ClipShardWriter, PixelCodec, code_clip, read_clips
from schemas.clip import ClipMetadata

SIDE, CLIPS = 256, 200
LIMITS = MediaLimits()
CODECS = (
    PixelCodec(name="raw"),
    PixelCodec(name="png"),
    *(PixelCodec(quality=quality, subsampling=chroma) for chroma in ("444", "420") for quality in (90, 95, 98, 100)),
)
DEFAULT = PixelCodec()


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecRow:
    """One codec over all clips."""

    codec: str
    bytes_per_clip: float
    written_per_second: float
    read_per_second: float
    psnr_mean: float | None
    """None where every pixel came back."""
    psnr_worst: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaleRow:
    """One kernel at one size."""

    kernel: str
    side: int
    photographs: int
    psnr_worst: float
    psnr_median: float


def main() -> None:
    """Print the tables; write them where `--json PATH` says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, required=True, help="folder of JPEG photographs of 500 x 375 or so")
    parser.add_argument("--large", type=Path, required=True, help="folder of larger ones")
    parser.add_argument("--runs", type=int, default=3, help="repetitions of what is timed (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    arguments = parser.parse_args()
    photographs, large = jpegs(arguments.photographs), jpegs(arguments.large)
    codecs = codec_rows([square(data, SIDE) for data in photographs[:CLIPS]], arguments.runs)
    for row in codecs:
        kept = "lossless" if row.psnr_mean is None else f"{row.psnr_mean:7.2f} {row.psnr_worst:7.2f} dB"
        sys.stdout.write(
            f"{row.codec:12} {row.bytes_per_clip:10.0f} bytes {row.written_per_second:8.0f} written/s "
            f"{row.read_per_second:8.0f} read/s  {kept}\n"
        )
    scales = scale_rows([*photographs, *large])
    for scale in scales:
        sys.stdout.write(
            f"{scale.kernel:9} {scale.side:4d} {scale.photographs:4d} photographs  "
            f"worst {scale.psnr_worst:6.2f} dB  median {scale.psnr_median:6.2f} dB\n"
        )
    speeds = speed_rows(photographs, "500 x 375", SIDE, arguments.runs)
    speeds += speed_rows(large, "large", SIDE // 2, arguments.runs)
    sys.stdout.write(table(speeds))
    if arguments.json is not None:
        document = {
            "command": f"python benchmarks/pixels.py --photographs FOLDER --large FOLDER --runs {arguments.runs}",
            "machine": machine() | {"threads_used": 1, "simplejpeg": version("simplejpeg")},
            "oversample": OVERSAMPLE,
            "codecs": [asdict(row) for row in codecs],
            "scaled_decoding": [asdict(row) for row in scales],
            "speed": [asdict(row) for row in speeds],
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


def jpegs(folder: Path) -> list[bytes]:
    """Files of a folder that both our decoder and libjpeg-turbo's strict one read as JPEG."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        try:
            decode_image(data, LIMITS)
            simplejpeg.decode_jpeg(data)
        except (RejectClip, ValueError):
            continue
        found.append(data)
    return found


def codec_rows(squares: Sequence[NDArray[np.uint8]], runs: int) -> list[CodecRow]:
    """Each codec over the same clips [1, R, R, 3]."""
    clips = [Clip(pixels=pixels, metadata=metadata(index)) for index, pixels in enumerate(squares)]
    return [codec_row(clips, codec, runs) for codec in CODECS]


def codec_row(clips: Sequence[Clip], codec: PixelCodec, runs: int) -> CodecRow:
    """One codec."""
    written: list[float] = []
    read: list[float] = []
    for _ in range(runs):
        stream = io.BytesIO()
        writer = ClipShardWriter(stream)
        start = time.process_time()
        for clip in clips:
            writer.write(code_clip(clip, codec))
        written.append(len(clips) / (time.process_time() - start))
        writer.close()
        stream.seek(0)
        start = time.process_time()
        back = list(read_clips(stream, where="benchmark"))
        read.append(len(clips) / (time.process_time() - start))
    found = [psnr(one.pixels, other.pixels) for one, other in zip(clips, back, strict=True)]
    lossy = [value for value in found if value is not None]
    return CodecRow(
        codec=f"jpeg {codec.quality} {codec.subsampling}" if codec.name == "jpeg" else codec.name,
        bytes_per_clip=len(stream.getvalue()) / len(clips),
        written_per_second=statistics.median(written),
        read_per_second=statistics.median(read),
        psnr_mean=statistics.mean(lossy) if lossy else None,
        psnr_worst=min(lossy) if lossy else None,
    )


def scale_rows(photographs: Sequence[bytes]) -> list[ScaleRow]:
    """Scaled decoding against whole decoding."""
    kernels: tuple[Kernel, ...] = ("bilinear", "bicubic", "lanczos", "box")
    rows = []
    for side in (16, 24, 32, 48, 64, 96, 128):
        pairs = []
        for data in photographs:
            small = decode_image(data, LIMITS, cover=(side, side))
            source = (small.source_height, small.source_width)
            if small.pixels.shape[:2] != source:
                pairs.append((small.pixels[np.newaxis], decode_image(data, LIMITS).pixels[np.newaxis]))
        for kernel in kernels:
            found = [
                psnr(
                    resize_frames(small, (side, side), kernel, source=(whole.shape[1], whole.shape[2])).pixels,
                    resize_frames(whole, (side, side), kernel).pixels,
                )
                for small, whole in pairs
            ]
            lossy = [value for value in found if value is not None]
            rows.append(
                ScaleRow(
                    kernel=kernel,
                    side=side,
                    photographs=len(pairs),
                    psnr_worst=min(lossy),
                    psnr_median=statistics.median(lossy),
                )
            )
    return rows


def speed_rows(photographs: Sequence[bytes], name: str, side: int, runs: int) -> list[Row]:
    """Images a second; the loops take turns."""
    loops: dict[str, Callable[[bytes, int], object]] = {"ours": ours, "bare": bare, "pillow": pillow}
    taken: dict[str, list[float]] = {loop: [] for loop in loops}
    for _ in range(runs):
        for loop, convert in loops.items():
            start = time.process_time()
            for data in photographs:
                convert(data, side)
            taken[loop].append(len(photographs) / (time.process_time() - start))
    return [
        Row.of(f"{name} -> {side}, beside {beside}", taken["ours"], taken[loop], "images/s")
        for loop, beside in (("bare", "bare simplejpeg and Pillow"), ("pillow", "Pillow alone"))
    ]


def square(data: bytes, side: int) -> NDArray[np.uint8]:
    """uint8 [1, R, R, 3] as `vitok prepare` makes it."""
    image = decode_image(data, LIMITS, cover=(side, side))
    source = (image.source_height, image.source_width)
    return resize_frames(image.pixels[np.newaxis], (side, side), "bilinear", source=source).pixels


def ours(data: bytes, side: int) -> object:
    """Decode, resize, encode with every check."""
    return code_clip(Clip(pixels=square(data, side), metadata=metadata(0)), DEFAULT)


def bare(data: bytes, side: int) -> object:
    """The same pixels by the same libraries, and nothing else."""
    cropped = np.asarray(resized(Image.fromarray(simplejpeg.decode_jpeg(data)), side))
    return simplejpeg.encode_jpeg(cropped, quality=DEFAULT.quality, colorsubsampling=DEFAULT.subsampling)


def pillow(data: bytes, side: int) -> object:
    """Pillow from end to end."""
    with Image.open(io.BytesIO(data)) as image:
        stream = io.BytesIO()
        resized(image.convert("RGB"), side).save(stream, "JPEG", quality=DEFAULT.quality, subsampling=0)
    return stream.getvalue()


def resized(image: Image.Image, side: int) -> Image.Image:
    """Short side first, then the centre."""
    short = min(image.size)
    width, height = (int(side * length / short) for length in image.size)
    left, top = round((width - side) / 2), round((height - side) / 2)
    whole = image.resize((width, height), Image.Resampling.BILINEAR)
    return whole.crop((left, top, left + side, top + side))


def psnr(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float | None:
    """In dB; None where the two are equal."""
    error = float(np.square(one.astype(np.float64) - other).mean())
    return 10 * float(np.log10(255**2 / error)) if error else None


def metadata(index: int) -> ClipMetadata:
    """Of a photograph of no origin."""
    return ClipMetadata(
        key=f"photograph-{index:04d}",
        media_uri=f"photographs/{index:04d}.jpg",
        media_sha256="0" * 64,
        clip_index=0,
        start_seconds=None,
        end_seconds=None,
        fps=None,
        num_frames=1,
        height=SIDE,
        width=SIDE,
        source_height=SIDE,
        source_width=SIDE,
        orientation=1,
        pixel_aspect=1.0,
        color="srgb",
        interlaced=False,
        crop_left=0.0,
        crop_top=0.0,
        crop_right=float(SIDE),
        crop_bottom=float(SIDE),
        label=None,
        caption=None,
        columns={},
    )


if __name__ == "__main__":
    main()

"""Clip shards: uint8 clips to byte-reproducible WebDataset tars and back (layout in schemas.clip)."""

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from pipeline.media.image import PILLOW_FAILURES
from pipeline.store.tar import TarWriter
from schemas.clip import KEY_PATTERN, ClipMetadata
from vitok.latents.tar import read_samples

_NPY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '\|u1', 'fortran_order': False, "
    rb"'shape': \((\d{1,9}), (\d{1,9}), (\d{1,9}), (3)\), \} *\n",
    re.DOTALL,
)

CodecName = Literal["jpeg", "png", "raw"]
Subsampling = Literal["444", "422", "420"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelCodec:
    """How pixels stand in a shard; part of the fingerprint and of the store's record."""

    name: CodecName = "jpeg"
    quality: int = 98
    """JPEG only, 1 to 100. The lowest whose worst photograph lies above what tokenizers reach (README, Preparing)."""
    subsampling: Subsampling = "444"
    """JPEG only: chroma kept whole by default, since tokenizers are judged on it."""

    def __post_init__(self) -> None:
        if self.name not in ("jpeg", "png", "raw"):
            raise ValueError(f'codec: got {self.name!r}, expected "jpeg", "png" or "raw"')
        if not 1 <= self.quality <= 100:
            raise ValueError(f"codec quality: got {self.quality}, expected 1 to 100")

    def to_json(self) -> dict[str, object]:
        """What of the codec can change a byte."""
        if self.name != "jpeg":
            return {"name": self.name}
        return {"name": self.name, "quality": self.quality, "subsampling": self.subsampling}


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """A clip in memory."""

    pixels: NDArray[np.uint8]
    """[T, H, W, 3], RGB."""
    metadata: ClipMetadata


@dataclass(frozen=True, kw_only=True, slots=True)
class CodedClip:
    """A clip as it stands in a tar."""

    key: str
    members: Mapping[str, bytes]
    """Bytes by extension, in the tar's order; "json" last."""


def code_clip(clip: Clip, codec: PixelCodec) -> CodedClip:
    """A clip as it will stand in a tar.

    Raises:
        ValueError: The pixels are not uint8 [T, H, W, 3] or the key is not a safe name.
    """
    if clip.pixels.dtype != np.uint8 or clip.pixels.ndim != 4 or clip.pixels.shape[-1] != 3:
        raise ValueError(f"clip pixels: got {clip.pixels.dtype} {clip.pixels.shape}, expected uint8 [T, H, W, 3]")
    key = clip.metadata.key
    if KEY_PATTERN.fullmatch(key) is None:
        raise ValueError(f"clip key: got {key!r}, expected a match of {KEY_PATTERN.pattern}")
    members = dict(_encode_pixels(clip.pixels, codec))
    members["json"] = json.dumps(clip.metadata.to_json(), ensure_ascii=False, allow_nan=False).encode()
    return CodedClip(key=key, members=members)


class ClipShardWriter:
    """Appends clips to a tar; the bytes are a function of the clips alone."""

    def __init__(self, stream: BinaryIO) -> None:
        self.num_clips = 0
        self._tar = TarWriter(stream)

    def write(self, clip: CodedClip) -> None:
        """Append one clip."""
        self._tar.write(clip.key, clip.members)
        self.num_clips += 1

    def close(self) -> None:
        """Write the end of the tar; the stream stays open."""
        self._tar.close()


def read_coded(stream: BinaryIO, *, where: str) -> Iterator[CodedClip]:
    """Clips of a shard, in order, as they stand there."""
    for key, members in read_samples(stream, where=where):
        yield CodedClip(key=key, members=members)


def read_clips(stream: BinaryIO, *, where: str) -> Iterator[Clip]:
    """Clips of a shard, in order.

    Args:
        stream: The tar's bytes; read forward only.
        where: Name of the shard for error messages.

    Raises:
        ValueError: The shard is not what this module writes: damaged, foreign, or with a hostile key.
    """
    for key, members in read_samples(stream, where=where):
        try:
            metadata = ClipMetadata.from_json(json.loads(members["json"]))
            pixels = _decode_pixels(members)
        except (KeyError, ValueError) as error:
            raise ValueError(f"{where}: clip {key!r} cannot be read: {error}") from error
        if metadata.key != key or pixels.shape != (metadata.num_frames, metadata.height, metadata.width, 3):
            raise ValueError(
                f"{where}: clip {key!r} holds pixels {pixels.shape} under metadata "
                f"{metadata.key!r} {metadata.num_frames}x{metadata.height}x{metadata.width}"
            )
        yield Clip(pixels=pixels, metadata=metadata)


def read_keys(stream: BinaryIO, *, where: str) -> list[str]:
    """Keys of a tar shard's samples, in order, without decoding them."""
    return [key for key, _ in read_samples(stream, where=where)]


def _encode_pixels(pixels: NDArray[np.uint8], codec: PixelCodec) -> Iterator[tuple[str, bytes]]:
    if codec.name == "raw":
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(pixels), allow_pickle=False)
        yield "npy", buffer.getvalue()
        return
    for index, frame in enumerate(np.ascontiguousarray(pixels)):
        if codec.name == "jpeg":
            data = simplejpeg.encode_jpeg(frame, quality=codec.quality, colorsubsampling=codec.subsampling)
            yield f"{index:03d}.jpg", data
        else:
            buffer = io.BytesIO()
            Image.fromarray(frame).save(buffer, "PNG", compress_level=1)
            yield f"{index:03d}.png", buffer.getvalue()


def _decode_pixels(members: Mapping[str, bytes]) -> NDArray[np.uint8]:
    if "npy" in members:
        return _decode_npy(members["npy"])
    names = sorted(name for name in members if name != "json")
    return np.stack([_FRAME_DECODERS[name.rpartition(".")[2]](members[name]) for name in names])


def _decode_npy(data: bytes) -> NDArray[np.uint8]:
    # Not numpy.load: it opens zip archives and pickles too, and evaluates the header.
    header = _NPY_HEADER.match(data)
    if header is None:
        raise ValueError("not an npy of C-ordered uint8 [T, H, W, 3]")
    return np.frombuffer(data, np.uint8, offset=header.end()).reshape([int(length) for length in header.groups()])


def _decode_jpeg(data: bytes) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data)
    return pixels


def _decode_png(data: bytes) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            return np.asarray(image)
    except (*PILLOW_FAILURES, Image.DecompressionBombError) as error:
        raise ValueError(f"not a whole PNG: {error}") from error


_FRAME_DECODERS: Mapping[str, Callable[[bytes], NDArray[np.uint8]]] = {"jpg": _decode_jpeg, "png": _decode_png}

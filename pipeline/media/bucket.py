"""Buckets: the folder of all clips of one grid, and the grid that a protocol gives to a media."""

from pipeline.media.resize import ResizeProtocol
from pipeline.media.source import MediaKind
from vitok.config import Grid, Tubelet

_PREFIX = "grid="


def bucket_name(grid: Grid) -> str:
    """Folder of a grid, as Hive partitions are named.

    >>> bucket_name(Grid(frames=4, height=16, width=16))
    'grid=4x16x16'
    """
    return f"{_PREFIX}{grid}"


def parse_bucket(name: str) -> Grid:
    """Grid of a folder; undoes `bucket_name`.

    Raises:
        ValueError: The name is not "grid=TxHxW" with positive sizes.
    """
    if not name.startswith(_PREFIX):
        raise ValueError(f'bucket: got {name!r}, expected "grid=TxHxW" such as "grid=4x16x16"')
    grid = Grid.parse(name.removeprefix(_PREFIX))
    if bucket_name(grid) != name or min(grid.frames, grid.height, grid.width) < 1:
        raise ValueError(f"bucket: got {name!r}, expected positive sizes in plain digits")
    return grid


def clip_grid(kind: MediaKind, protocol: ResizeProtocol, num_frames: int, tubelet: Tubelet) -> Grid:
    """Grid of the clips that `protocol` makes of a media; an image is a clip of one frame.

    Args:
        kind: Of the media.
        protocol: Gives height and width.
        num_frames: Of a video's clip.
        tubelet: That the tokenizer will cut.

    Raises:
        ValueError: The resolution is not a multiple of the patch.
    """
    return Grid.of_clip(
        num_frames=1 if kind is MediaKind.IMAGE else num_frames,
        height=protocol.resolution,
        width=protocol.resolution,
        tubelet=tubelet,
    )

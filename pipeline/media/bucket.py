"""Buckets: the folder of all clips of one grid, the sizes that clips may have, the grid of a media's clips."""

import re

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


def aspect_sizes(*, tokens: int, tubelet: Tubelet, max_aspect: float = 2.0) -> tuple[tuple[int, int], ...]:
    """Sizes of all shapes that spend a budget of tokens, from the tallest to the widest.

    A size is h/p by w/p tokens with (h/p)(w/p) <= `tokens` and neither side over `max_aspect` times the other, such
    that neither side can grow by a token within these bounds.

    >>> aspect_sizes(tokens=6, tubelet=Tubelet(frames=1, patch=16))
    ((48, 32), (32, 48))

    Args:
        tokens: Most spatial tokens of a clip: those of one tubelet in time.
        tubelet: That the tokenizer will cut; its patch p divides every side.
        max_aspect: Longer side over shorter side, at most.

    Returns:
        (height, width) in pixels.

    Raises:
        ValueError: No token, or an aspect under 1.
    """
    if tokens < 1:
        raise ValueError(f"tokens: got {tokens}, expected at least 1")
    if not max_aspect >= 1:
        raise ValueError(f"max_aspect: got {max_aspect}, expected at least 1 (longer side over shorter side)")
    widest = {rows: min(tokens // rows, int(max_aspect * rows)) for rows in range(1, tokens + 1)}
    shapes = [(rows, columns) for rows, columns in widest.items() if columns and rows <= max_aspect * columns]
    # Rows grow along the list, so a shape is within a later one unless that one has fewer columns.
    kept = [
        (rows, columns)
        for index, (rows, columns) in enumerate(shapes)
        if all(columns > later for _, later in shapes[index + 1 :])
    ]
    return tuple((rows * tubelet.patch, columns * tubelet.patch) for rows, columns in reversed(kept))


def parse_sizes(text: str, tubelet: Tubelet) -> tuple[tuple[int, int], ...]:
    """Read "256x256,192x320": sizes as height x width in pixels.

    Args:
        text: Sizes in the order that decides between equally near ones.
        tubelet: Whose patch must divide every side.

    Raises:
        ValueError: The text is no such list, names a size twice, or a side is not a positive multiple of the patch.
    """
    sizes = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})", part.strip())
        if match is None:
            raise ValueError(f'sizes: got {part!r} in {text!r}, expected "HEIGHTxWIDTH,..." such as "256x256,192x320"')
        sizes.append((int(match[1]), int(match[2])))
    for height, width in sizes:
        if not height or not width or height % tubelet.patch or width % tubelet.patch:
            raise ValueError(
                f"sizes: got {height}x{width} (height x width), expected positive multiples of the patch "
                f"{tubelet.patch}, for tubelets {tubelet}"
            )
    if len(set(sizes)) != len(sizes):
        raise ValueError(f"sizes: got {text!r}, expected each size once")
    return tuple(sizes)


def clip_grid(kind: MediaKind, size: tuple[int, int], num_frames: int, tubelet: Tubelet) -> Grid:
    """Grid of the clips of `size` that are made of a media; an image is a clip of one frame.

    Args:
        kind: Of the media.
        size: (height, width) of its clips, in pixels.
        num_frames: Of a video's clip.
        tubelet: That the tokenizer will cut.

    Raises:
        ValueError: A side is not a multiple of the patch.
    """
    return Grid.of_clip(
        num_frames=1 if kind is MediaKind.IMAGE else num_frames, height=size[0], width=size[1], tubelet=tubelet
    )

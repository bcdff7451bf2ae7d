"""Daft, run by its own interpreter: FOLDER SIZE FPS. read_video_frames, its frames counted.

PyAV decodes and swscale resizes the whole frame to a square; the first frame at or after each 1 / FPS is a row.
"""

import sys
from pathlib import Path

import daft


def main() -> None:
    """Print the number of frames."""
    folder, size, fps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    paths = [str(path) for path in sorted(Path(folder).iterdir())]
    frames = daft.read_video_frames(paths, image_height=size, image_width=size, sample_interval_seconds=1 / fps)
    sys.stdout.write(f"{sum(len(partition) for partition in frames.iter_partitions())}\n")


if __name__ == "__main__":
    main()

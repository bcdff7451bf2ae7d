"""Daft, run by its own interpreter: FOLDER SIZE FPS WORKERS. read_video_frames, its frames counted.

PyAV decodes and swscale resizes the whole frame to a square; the first frame at or after each 1 / FPS is a row.
A call for each file, from as many processes as there are workers: given several files on two cores, Daft 0.7.26 waits
for ever (its readers block the loop that would serve them in `File.exists`).
"""

import multiprocessing
import sys
from functools import partial
from pathlib import Path


def main() -> None:
    """Print the number of frames."""
    folder, size, fps, workers = Path(sys.argv[1]), *map(int, sys.argv[2:])
    count = partial(frames_of, size=size, fps=fps)
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        sys.stdout.write(f"{sum(pool.imap_unordered(count, sorted(folder.iterdir())))}\n")


def frames_of(path: Path, *, size: int, fps: int) -> int:
    """Read one file."""
    import daft

    frames = daft.read_video_frames(str(path), image_height=size, image_width=size, sample_interval_seconds=1 / fps)
    return sum(len(partition) for partition in frames.iter_partitions())


if __name__ == "__main__":
    main()

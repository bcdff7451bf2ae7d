"""Plain Ray Data: FOLDER SIZE FPS WORKERS. read_videos, its frames counted.

decord decodes and resizes the whole frame to a square; of the frames every round(source fps / FPS)-th is a row.
"""

import sys

import ray


def main() -> None:
    """Print the number of frames."""
    folder, size, fps, workers = sys.argv[1], *map(int, sys.argv[2:])
    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    dataset = ray.data.read_videos(folder, resize=(size, size), fps=fps)
    sys.stdout.write(f"{sum(len(batch['frame']) for batch in dataset.iter_batches(batch_size=64))}\n")


if __name__ == "__main__":
    main()

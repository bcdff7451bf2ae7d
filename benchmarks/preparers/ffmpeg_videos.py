"""The limit: FOLDER OUTPUT SIZE FPS WORKERS. The ffmpeg program, a file at a time for each worker, one thread each.

Decode, fps, scale (bilinear, short side), centre crop; raw RGB frames to a file.
"""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def main() -> None:
    """Print the number of frames."""
    folder, output = map(Path, sys.argv[1:3])
    size, fps, workers = map(int, sys.argv[3:])
    output.mkdir(parents=True)
    filters = f"fps={fps},scale={size}:{size}:force_original_aspect_ratio=increase:flags=bilinear,crop={size}:{size}"

    def prepare(path: Path) -> int:
        raw = output / f"{path.stem}.rgb"
        threads = ("-threads", "1", "-filter_threads", "1")
        options = ("-an", "-vf", filters, "-pix_fmt", "rgb24", "-f", "rawvideo")
        command = ("ffmpeg", "-nostdin", "-loglevel", "error", *threads, "-i", path, *options, raw)
        subprocess.run(command, check=True)
        return raw.stat().st_size // (size * size * 3)

    with ThreadPoolExecutor(workers) as pool:
        sys.stdout.write(f"{sum(pool.map(prepare, sorted(folder.iterdir())))}\n")


if __name__ == "__main__":
    main()

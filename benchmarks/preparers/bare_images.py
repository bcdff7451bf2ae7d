"""The limit: FOLDER OUTPUT SIZE QUALITY WORKERS. Plain processes, each with its share of the files, and no framework.

Each reads a file, decodes, resizes and encodes it with the functions and settings that the job has, and appends it to
its tar: no metadata, no hash, no sandbox, no record.
"""

import io
import multiprocessing
import sys
import tarfile
from pathlib import Path

import numpy as np
import simplejpeg

from pipeline.media.guard import MediaLimits
from pipeline.media.image import decode_image
from pipeline.media.resize import resize_frames


def main() -> None:
    """Prepare the folder."""
    folder, output = map(Path, sys.argv[1:3])
    size, quality, workers = map(int, sys.argv[3:])
    output.mkdir(parents=True)
    paths = sorted(folder.iterdir())
    context = multiprocessing.get_context("spawn")
    shares = [
        context.Process(target=prepare, args=(paths[index::workers], output / f"{index}.tar", size, quality))
        for index in range(workers)
    ]
    for process in shares:
        process.start()
    for process in shares:
        process.join()
    sys.exit(max(abs(process.exitcode or 0) for process in shares))


def prepare(paths: list[Path], output: Path, size: int, quality: int) -> None:
    """One process's share."""
    limits, square = MediaLimits(), (size, size)
    with tarfile.open(output, "w") as tar:
        for path in paths:
            image = decode_image(path.read_bytes(), limits, cover=square)
            source = (image.source_height, image.source_width)
            pixels = resize_frames(image.pixels[np.newaxis], square, "bilinear", source=source).pixels[0]
            data = simplejpeg.encode_jpeg(pixels, quality=quality, colorspace="RGB", colorsubsampling="444")
            member = tarfile.TarInfo(f"{path.stem}.jpg")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


if __name__ == "__main__":
    main()

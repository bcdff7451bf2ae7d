"""img2dataset, run by its own interpreter: FOLDER OUTPUT SIZE QUALITY SHARD_SIZE WORKERS.

Its own path: a list of URLs (file://, which its downloader opens as it does http), resized and cropped, to WebDataset
tars. Hashes and EXIF, which would cost it time, are off; JPEGs are OpenCV's, 4:2:0.
"""

import sys
from pathlib import Path

from img2dataset import download

THREADS_PER_PROCESS = 8


def main() -> None:
    """Prepare the folder."""
    folder, output = map(Path, sys.argv[1:3])
    size, quality, shard_size, workers = map(int, sys.argv[3:])
    urls = output.with_suffix(".txt")
    urls.write_text("".join(f"{path.resolve().as_uri()}\n" for path in sorted(folder.iterdir())))
    download(
        url_list=str(urls),
        output_folder=str(output),
        output_format="webdataset",
        image_size=size,
        resize_mode="center_crop",
        encode_quality=quality,
        number_sample_per_shard=shard_size,
        processes_count=workers,
        thread_count=THREADS_PER_PROCESS,
        compute_hash=None,
        extract_exif=False,
        enable_wandb=False,
    )


if __name__ == "__main__":
    main()

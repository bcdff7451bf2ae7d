"""Plain Ray Data: FOLDER OUTPUT SIZE QUALITY SHARD_SIZE WORKERS. read_images, map, write_webdataset.

What one writes by the manual: Pillow decodes (in read_images), resizes (bilinear) and encodes (its default, 4:2:0).
"""

import io
import json
import sys
from functools import partial
from typing import cast

import numpy as np
import ray
from numpy.typing import NDArray
from PIL import Image

Row = dict[str, NDArray[np.uint8] | str | bytes]


def main() -> None:
    """Prepare the folder."""
    folder, output = sys.argv[1:3]
    size, quality, shard_size, workers = map(int, sys.argv[3:])
    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    dataset = ray.data.read_images(folder, mode="RGB", include_paths=True)
    samples = dataset.map(partial(prepared, size=size, quality=quality))
    samples.write_webdataset(output, min_rows_per_file=shard_size, encoder=None)


def prepared(row: Row, *, size: int, quality: int) -> Row:
    """A row of read_images as a WebDataset sample."""
    path = cast(str, row["path"])
    image = Image.fromarray(cast("NDArray[np.uint8]", row["image"]))
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    buffer = io.BytesIO()
    image.crop((left, top, left + size, top + size)).save(buffer, "JPEG", quality=quality)
    key = path.rsplit("/", 1)[-1].split(".")[0]
    return {"__key__": key, "jpg": buffer.getvalue(), "json": json.dumps({"path": path}).encode()}


if __name__ == "__main__":
    main()

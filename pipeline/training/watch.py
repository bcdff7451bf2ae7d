"""What is to be seen of a training: TensorBoard's scalars and pictures, PNG files, the rate of work.

<output>/tensorboard/events.out.tfevents.*   `tensorboard --logdir <output>/tensorboard`
<output>/pictures/step-00001000.png          held-out clips above, their reconstructions below
<output>/report.html                         curves and pictures, at the end (`pipeline.report.training`)
"""

import io
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tensorboardX import SummaryWriter

from pipeline.store.files import Folder

TENSORBOARD_FOLDER = "tensorboard"
PICTURES_FOLDER = "pictures"
PEAK_FLOPS: Mapping[str, float] = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
"""Dense bfloat16 operations a second by a part of the device's name, as their makers state them (SXM variants)."""


class Watch:
    """Written by the first worker alone."""

    def __init__(self, output: Folder, *, step: int) -> None:
        """Go on after `step` steps: later points of an earlier start are hidden."""
        self._output = output
        # A file grows, which an object store's cannot: there the events lie here and go up as wholes.
        self._events = tempfile.TemporaryDirectory(prefix="vitok-events-")
        self._writer = SummaryWriter(logdir=self._events.name, purge_step=step, flush_secs=10)

    def scalars(self, values: Mapping[str, float], *, step: int) -> None:
        """Add a point to each curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, global_step=step)

    def picture(self, pixels: NDArray[np.uint8], *, step: int) -> None:
        """Add a picture [H, W, 3], also as a file."""
        self._writer.add_image("pictures", pixels, global_step=step, dataformats="HWC")
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        self._output.write_bytes(f"{PICTURES_FOLDER}/step-{step:08d}.png", buffer.getvalue())

    def publish(self) -> None:
        """Put what was added where others see it."""
        self._writer.flush()
        for file in Path(self._events.name).iterdir():
            self._output.write_bytes(f"{TENSORBOARD_FOLDER}/{file.name}", file.read_bytes())

    def close(self) -> None:
        """Publish the last of it."""
        self.publish()
        self._writer.close()
        self._events.cleanup()


class Rate:
    """Clips a second, and the share of the device's peak that they use, since it was last asked."""

    def __init__(self, *, peak_flops: float | None) -> None:
        self._peak_flops = peak_flops
        self._clips = 0
        self._flops = 0.0
        self._since = time.perf_counter()

    def add(self, *, clips: int, flops: float) -> None:
        """Count a step of one device."""
        self._clips += clips
        self._flops += flops

    def values(self) -> dict[str, float]:
        """By name; begins anew."""
        now = time.perf_counter()
        seconds = max(now - self._since, 1e-9)
        values = {"rate/clips_per_second": self._clips / seconds}
        if self._peak_flops is not None:
            values["rate/mfu"] = self._flops / seconds / self._peak_flops
        self._clips, self._flops, self._since = 0, 0.0, now
        return values


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Operations a second that a device is capable of in theory; of a CPU, what its matrix product reaches.

    None for a GPU that `PEAK_FLOPS` does not know, and for a GPU in float32, whose peak depends on TF32.
    """
    if device.type == "cuda":
        if precision != "bfloat16":
            return None
        name = torch.cuda.get_device_name(device)
        return next((peak for part, peak in PEAK_FLOPS.items() if part in name), None)
    side = 1024
    matrix = torch.ones(side, side, dtype=getattr(torch, precision))
    seconds = []
    for _ in range(4):
        started = time.perf_counter()
        torch.mm(matrix, matrix)
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / min(seconds)

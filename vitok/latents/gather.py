"""Planned samples to tensors: blocks are opened ahead of their use, and each gives its rows to a batch in one copy."""

from collections.abc import Sequence
from concurrent.futures import Executor, Future

import torch
from torch import Tensor

from vitok.latents.blocks import Block, BlockReader
from vitok.latents.buffers import Buffers
from vitok.latents.form import FLIP_SUFFIX, BatchForm
from vitok.latents.plan import Plan, Stream
from vitok.latents.shards import DTYPES


class Gatherer:
    """Reads plans one after the other; what it opened for a window is let go once the plans are past it."""

    def __init__(
        self,
        readers: Sequence[BlockReader],
        streams: Sequence[Stream],
        *,
        form: BatchForm,
        scale: tuple[Tensor, Tensor] | None,
        threads: Executor,
    ) -> None:
        """Begin.

        Args:
            readers: Of the sources, for the columns of the form.
            streams: Of all of them.
            form: What a batch holds.
            scale: Mean and std of each channel, where latents are normalised.
            threads: Where blocks are opened.
        """
        self._readers = readers
        self._streams = streams
        self._form = form
        self._scale = scale
        self._dtype = DTYPES[streams[0].index.latent.dtype]
        self._channels = streams[0].index.latent.channels
        self._threads = threads
        self._buffers = Buffers()
        self._blocks: dict[tuple[int, int, int], Future[Block]] = {}

    def prepare(self, plan: Plan) -> None:
        """Begin to open what a later `gather` of this plan needs."""
        for run in plan.runs:
            key = (run.stream, run.window, run.block)
            if key not in self._blocks:
                self._blocks[key] = self._threads.submit(self._open, run.stream, run.block)

    def gather(self, plan: Plan) -> tuple[Tensor, dict[str, list[object]]]:
        """Latents and other columns of the plan's samples.

        Raises:
            ValueError: A shard is damaged; it is named.
        """
        for key in [key for key in self._blocks if key[1] < plan.windows.get(key[0], 0)]:
            del self._blocks[key]
        form, shape = self._form, (len(plan.row), *plan.grid, self._channels)
        moments = {name: self._buffers.empty(shape, self._dtype) for name in form.moments}
        cells = {name: values.view(torch.uint8).flatten(1).numpy() for name, values in moments.items()}
        columns: dict[str, list[object]] = {name: [] for name in form.columns}
        for run in plan.runs:
            block = self._blocks[run.stream, run.window, run.block].result()
            span, ending = slice(run.start, run.stop), FLIP_SUFFIX if run.flip else ""
            for name, out in cells.items():
                # Rows follow from the index, which the shard was checked against; "clip" copies without a buffer.
                block.latents[name + ending].take(plan.row[span], axis=0, out=out[span], mode="clip")
            for name, values in columns.items():
                values += block.columns[name][plan.row[span]].tolist()
        return form.finish(moments, plan.keys, self._scale), columns

    def close(self) -> None:
        """Open no more: who leaves early waits for no block that nobody reads."""
        for block in self._blocks.values():
            block.cancel()

    def _open(self, stream: int, block: int) -> Block:
        entry = self._streams[stream]
        blocks = entry.blocks
        return self._readers[entry.source].block(
            int(blocks.shard[block]), int(blocks.first[block]), int(blocks.stop[block]), whole=True
        )

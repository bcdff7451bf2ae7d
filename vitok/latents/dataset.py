"""Latents as ready batches for a generator's training: a torch dataset whose order no rank and no worker changes.

What is read when follows from (seed, epoch) alone: `vitok.latents.order` says in which order the samples of a bucket
come, `vitok.latents.steps` which bucket a step is of and which of its samples are whose. Ranks and the workers of a
DataLoader only divide the steps. So a state is a few numbers, the same on all ranks, and another number of ranks or
workers goes on from it with no sample lost or seen twice.

Batches come ready-made: `DataLoader(dataset, batch_size=None)`, or no loader at all, since a thread reads ahead in any
case. Each carries the state after it, so that a run goes on exactly however far its loader has read ahead.
"""

import os
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeGuard

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from vitok.latents.ahead import ahead
from vitok.latents.batch import DatasetBatch, Reading
from vitok.latents.blocks import BlockReader
from vitok.latents.gather import Gatherer
from vitok.latents.moments import measured, merged, ruled
from vitok.latents.plan import DatasetSource, Plan, Planner, lay_streams
from vitok.latents.progress import Progress, check_order, order_document
from vitok.latents.steps import Grid, next_bucket, num_steps, phases, step_size

_LOOKAHEAD = 16
"""Steps whose blocks are being opened before they are read."""
_READY = 2
"""Batches that are made before they are asked for."""
_OPENERS = 8
"""Threads that open blocks: files that are mapped take no time, those of a remote store wait for the network."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Step:
    grid: Grid
    start: int
    stop: int
    before: Progress
    after: Progress


class LatentDataset(IterableDataset[DatasetBatch]):
    """Batches of one epoch after the other; `LatentStore.dataset` and `mix` make it."""

    def __init__(self, sources: Sequence[DatasetSource], reading: Reading) -> None:
        """Lay out what is read.

        Raises:
            ValueError: The sources do not fit each other or the reading, or hold no sample.
        """
        self.sources = tuple(sources)
        self.reading = reading
        documents = [source.index.document for source in sources]
        made = [_made(source) for source in sources]
        if len(set(made)) > 1:
            raise ValueError(f"stores of a mixture must be of one tokenizer, dtype and number of channels, got {made}")
        for source in sources:
            held = source.index.latent.columns
            missing = [name for name in reading.form.latents if name not in held]
            if missing:
                raise ValueError(
                    f"{source.url}: has no latent column {missing[0]!r}, only {held}: encode with --logvar for "
                    "posterior samples, with --flip for mirrored views"
                )
        self._scale: tuple[Tensor, Tensor] | None = None
        if reading.form.normalize == "corpus":
            parts = zip(documents, sources, strict=True)
            self._scale = merged([(measured(document), float(source.weight)) for document, source in parts])
        elif reading.form.normalize == "tokenizer":
            self._scale = ruled(documents[0], url=sources[0].url)
        self._streams = lay_streams(sources, seed=reading.seed, window=reading.window, shuffle=reading.shuffle)
        if not self._streams:
            raise ValueError(f"no clip to read in {[source.url for source in sources]}: the stores or views are empty")
        self._order = order_document(
            seed=reading.seed, shuffle=reading.shuffle, window=reading.window, sources=self.sources
        )
        self._progress = Progress()
        self._readers: tuple[int, list[BlockReader]] = (0, [])

    def __iter__(self) -> Iterator[DatasetBatch]:
        """What is left of the epoch; an iteration goes on where the last one stopped, and then with the next epoch."""
        worker = get_worker_info()
        batches = self.part(*((worker.id, worker.num_workers) if worker else (0, 1)))
        # Not a loop with a name for the batch: it would hold its memory while the next is waited for.
        yield from filter(_is_batch, map(self._passed, ahead(batches, depth=_READY)))

    def _passed(self, item: tuple[DatasetBatch | None, Progress]) -> DatasetBatch | None:
        batch, self._progress = item
        return batch

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch, unless it is the current one.

        Only workers of a DataLoader that do not persist need it: they hand no progress back to this process.
        """
        if epoch != self._progress.epoch:
            step = sum(self.num_steps(before) for before in range(epoch))
            self._progress = Progress(epoch=epoch, step=step, first_step=step)

    def num_steps(self, epoch: int = 0) -> int:
        """Steps of an epoch: the same number on all ranks."""
        reading = self.reading
        return sum(
            num_steps(size, batch_size=reading.batch_size, world_size=reading.world_size)
            for size in self._sizes(epoch).values()
        )

    def state_dict(self) -> dict[str, object]:
        """After the last batch that this process was given: a few numbers, the same on all ranks."""
        return self._state(self._progress)

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on where a dataset of the same order stood, with any batch size, rank, world size or number of workers.

        Raises:
            ValueError: The state is of another order: other stores, weights, positions, seed, shuffle or window.
        """
        check_order(state["order"], self._order)
        progress = Progress.from_json(state["progress"])
        # A worker of a StatefulDataLoader goes on as the same worker; elsewhere the steps are dealt out anew from here.
        self._progress = progress if get_worker_info() else replace(progress, first_step=progress.step)

    def _open_readers(self) -> list[BlockReader]:
        """One for each source; what they have open stays open from epoch to epoch, but not across a fork."""
        if self._readers[0] != os.getpid():
            form = self.reading.form
            readers = [
                BlockReader(source.index, source.files, latents=form.latents, columns=form.columns)
                for source in self.sources
            ]
            self._readers = (os.getpid(), readers)
        return self._readers[1]

    def _state(self, progress: Progress) -> dict[str, object]:
        return {"order": self._order, "progress": progress.to_json()}

    def _sizes(self, epoch: int) -> dict[Grid, int]:
        """Samples of each bucket in an epoch."""
        sizes: dict[Grid, int] = {}
        for stream in self._streams:
            begin, end = stream.span(epoch)
            sizes[stream.grid] = sizes.get(stream.grid, 0) + end - begin
        return sizes

    def _steps(self, progress: Progress, *, endless: bool) -> Generator[_Step | Progress, None, None]:
        """Steps from here to the end of the epoch, and then where that leaves us."""
        reading = self.reading
        whole = reading.batch_size * reading.world_size
        while True:
            sizes = self._sizes(progress.epoch)
            phase = phases(list(sizes), seed=reading.seed, epoch=progress.epoch)
            while grid := next_bucket(sizes, progress.consumed, phase, global_batch=whole):
                start = progress.consumed.get(grid, 0)
                count = step_size(sizes[grid] - start, batch_size=reading.batch_size, world_size=reading.world_size)
                after = replace(progress, step=progress.step + 1, consumed={**progress.consumed, grid: start + count})
                yield _Step(grid=grid, start=start, stop=start + count, before=progress, after=after)
                progress = after
            progress = replace(progress, epoch=progress.epoch + 1, consumed={})
            if not endless:
                yield replace(progress, first_step=progress.step)
                return

    def part(self, worker: int, num_workers: int) -> Generator[tuple[DatasetBatch | None, Progress], None, None]:
        """One worker's batches of what is left and the progress after each; no batch where an epoch has ended."""
        with (
            ThreadPoolExecutor(max_workers=_OPENERS, thread_name_prefix="blocks") as threads,
            closing(self._gatherer(threads)) as gatherer,
        ):
            planner = Planner(
                self._streams,
                rank=self.reading.rank,
                world_size=self.reading.world_size,
                seed=self.reading.seed,
                form=self.reading.form,
            )
            planned: deque[tuple[_Step, Plan]] = deque()
            end = self._progress
            for step in self._steps(self._progress, endless=self.reading.endless):
                if isinstance(step, Progress):
                    end = step
                elif (step.before.step - step.before.first_step) % num_workers == worker:
                    plan = planner.plan(step.grid, epoch=step.before.epoch, start=step.start, stop=step.stop)
                    gatherer.prepare(plan)
                    planned.append((step, plan))
                    if len(planned) > _LOOKAHEAD:
                        yield self._batch(gatherer, *planned.popleft())
            while planned:
                yield self._batch(gatherer, *planned.popleft())
            yield None, end

    def _gatherer(self, threads: Executor) -> Gatherer:
        return Gatherer(self._open_readers(), self._streams, form=self.reading.form, scale=self._scale, threads=threads)

    def _batch(self, gatherer: Gatherer, step: _Step, plan: Plan) -> tuple[DatasetBatch, Progress]:
        latent, columns = gatherer.gather(plan)
        batch = DatasetBatch(
            latent=latent,
            columns=columns,
            grid=step.grid,
            source=torch.from_numpy(plan.source),
            position=torch.from_numpy(plan.position),
            epoch=step.before.epoch,
            step=step.before.step,
            global_size=step.stop - step.start,
            state=self._state(step.after),
        )
        return batch, step.after


def mix(datasets: Sequence[LatentDataset], *, weights: Sequence[float] | None = None) -> LatentDataset:
    """Several stores in one: samples of one bucket are mixed in proportion, batch by batch.

    Args:
        datasets: Of one tokenizer, and read in the same way.
        weights: How often an epoch passes over each: 2 is twice, 0.5 one half in this epoch and the other in the next;
            None: once. Normalisation is by the moments of what is read, so weighted alike.

    Raises:
        ValueError: There are none, they are read in different ways, or a weight is not above 0.

    >>> mix([photos.dataset(batch_size=64), films.dataset(batch_size=64)], weights=[1, 3])  # doctest: +SKIP
    """
    readings = [dataset.reading for dataset in datasets]
    if not readings or any(reading != readings[0] for reading in readings):
        raise ValueError(f"datasets of a mixture must be read in the same way, got {readings}")
    factors = [1.0] * len(datasets) if weights is None else list(weights)
    if len(factors) != len(datasets) or min(factors) <= 0:
        raise ValueError(f"weights: got {factors}, expected {len(datasets)} numbers above 0")
    sources = [
        replace(source, weight=source.weight * Fraction(factor))
        for dataset, factor in zip(datasets, factors, strict=True)
        for source in dataset.sources
    ]
    return LatentDataset(sources, readings[0])


def process_group(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Rank and world size as given, or as torch.distributed has them, or of a process alone.

    Raises:
        ValueError: Only one of them is given.
    """
    if rank is not None and world_size is not None:
        return rank, world_size
    if rank is not None or world_size is not None:
        raise ValueError(f"got rank {rank} and world_size {world_size}, expected both or neither")
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _is_batch(batch: DatasetBatch | None) -> TypeGuard[DatasetBatch]:
    return batch is not None


def _made(source: DatasetSource) -> tuple[object, str, int]:
    tokenizer = source.index.document["tokenizer"]
    assert isinstance(tokenizer, Mapping)
    return tokenizer["fingerprint"], source.index.latent.dtype, source.index.latent.channels

"""The training loop of one worker: batches in, optimizer steps, checkpoints out. Runs under Ray Train."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.runs.progress import Progress
from pipeline.store.documents import write_json
from pipeline.store.files import Folder
from pipeline.training.checkpoint import CurvePoint, Progressed, latest_step, load_training, save_training
from pipeline.training.config import IntervalFlags, OptimizerFlags
from pipeline.training.objective import Batch, Inputs, Objective, Turn, Validator
from pipeline.training.parallel import Parallel
from pipeline.training.player import Player
from pipeline.training.watch import Rate, Watch, peak_flops

STOPPED_FOLDER = "stopped"
_CURVE_POINTS = 2000
"""Most points of a run's curve in its checkpoints: steps between them grow with the run."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopSettings:
    """What the loop itself needs to know."""

    output: Folder
    optimizer: OptimizerFlags
    intervals: IntervalFlags
    validate_every: int
    """Steps between looks of the validator; the last step always has one."""


def run_loop(
    settings: LoopSettings,
    *,
    objective: Objective[Inputs],
    batches: Iterator[Batch[Inputs]],
    progressed: Progressed,
    parallel: Parallel,
    validator: Validator | None,
) -> bool:
    """Take the steps that are left. False: a loss or gradient was not finite, and its clips' keys are on disk."""
    first, note = parallel.rank == 0, ""
    max_steps, precision = settings.optimizer.max_steps, settings.optimizer.precision
    log_every, checkpoint_every = settings.intervals.log_every, settings.intervals.checkpoint_every
    curve = list(progressed.curve)
    curve_every = math.ceil(max_steps / (log_every * _CURVE_POINTS)) * log_every
    rate = Rate(peak_flops=peak_flops(parallel.device, precision) if first else None)
    with ExitStack() as stack:
        ahead = stack.enter_context(ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches"))
        progress = Progress("train", total=max_steps, done=progressed.step, unit="steps")
        stack.enter_context(progress)
        watch = Watch(settings.output, step=progressed.step) if first else None
        if watch is not None:
            stack.callback(watch.close)
        coming = ahead.submit(_prepare, batches, parallel.device) if progressed.step < max_steps else None
        for step in range(progressed.step, max_steps):
            assert coming is not None
            batch, inputs = coming.result()
            if step + 1 < max_steps:
                coming = ahead.submit(_prepare, batches, parallel.device)
            terms = _take_step(settings, objective, inputs, step=step, parallel=parallel)
            if terms is None:
                _write_keys(settings, batch, step=step, rank=parallel.rank)
                return False
            done = step + 1
            last = done == max_steps
            rate.add(clips=len(inputs), flops=objective.flops(inputs))
            if done % log_every == 0 or last:
                values = _mean_over_workers(terms, parallel)
                if done % curve_every == 0 or last:
                    curve.append(CurvePoint(step=done, values=values))
                if watch is not None:
                    watch.scalars({**values, **rate.values()}, step=done)
                note = f"loss {values[f'{objective.players[0].name}/total']:.4f}"
            if validator is not None and (done % settings.validate_every == 0 or last):
                found = validator.run(objective.players[0], step=done, precision=precision)
                values = {f"validation/{name}": value for name, value in found.values.items()}
                curve.append(CurvePoint(step=done, values=values))
                if watch is not None:
                    watch.scalars(values, step=done)
                    watch.picture(found.picture, step=done)
                    logger.info("train: %s", found.note)
            if first:
                progress.advance(1, note=note)
            if done % checkpoint_every == 0 or last:
                save_training(
                    settings.output,
                    objective.players,
                    Progressed(step=done, used=batch.used, curve=tuple(curve)),
                    parallel,
                )
                if watch is not None:
                    watch.publish()
    return True


def resume(output: Folder, players: Sequence[Player]) -> Progressed:
    """Put the newest checkpoint, if there is one, into the players."""
    step = latest_step(output)
    if step is None:
        return Progressed(used={})
    logger.info("train: goes on after step %d", step)
    return load_training(output, step, players)


def _take_step(
    settings: LoopSettings, objective: Objective[Inputs], inputs: Inputs, *, step: int, parallel: Parallel
) -> dict[str, Tensor] | None:
    """One optimizer step of every player: its loss terms, gradient norm and learning rate; None: not finite."""
    flags = settings.optimizer
    values: dict[str, Tensor] = {}
    parts = inputs.chunk(flags.accumulation)
    for player in objective.players:
        for number, part in enumerate(parts):
            # Noise is a function of (seed, step, worker, part), not of what came before: a resumed run draws the same.
            seed = _draw_seed(flags.seed, step, parallel.rank, number)
            torch.manual_seed(seed)
            turn = Turn(step=step, part=number, generator=torch.Generator(parallel.device).manual_seed(seed))
            with parallel.last_part(player.running, last=number + 1 == len(parts)):
                with torch.autocast(parallel.device.type, dtype=torch.bfloat16, enabled=flags.precision == "bfloat16"):
                    terms = objective.terms(player, part, turn)
                (terms.total / len(parts)).backward()  # type: ignore[no-untyped-call]
            for name, value in {"total": terms.total, **terms.parts}.items():
                key = f"{player.name}/{name}"
                values[key] = values.get(key, 0.0) + value.detach().float() / len(parts)
        norm = player.clip_gradients()
        # Gradients are sums over workers, so all of them see the same norm and stop at the same step.
        if not norm.isfinite():
            return None
        player.step(step)
        values[f"{player.name}/gradient_norm"] = norm
        values[f"{player.name}/learning_rate"] = torch.tensor(player.learning_rate(step))
        if player.ema_decay:
            values[f"{player.name}/ema_decay"] = torch.tensor(player.ema_decay)
    return values


def _prepare(batches: Iterator[Batch[Inputs]], device: torch.device) -> tuple[Batch[Inputs], Inputs]:
    """The next batch, and what of it the model takes."""
    batch = next(batches)
    return batch, batch.to(device)


def _mean_over_workers(terms: Mapping[str, Tensor], parallel: Parallel) -> dict[str, float]:
    stacked = torch.stack([value.to(parallel.device, torch.float64) for value in terms.values()])
    return dict(zip(terms, parallel.mean(stacked).tolist(), strict=True))


def _write_keys(settings: LoopSettings, batch: Batch[Inputs], *, step: int, rank: int) -> None:
    """What was being looked at when a number stopped being one."""
    path = f"{STOPPED_FOLDER}/step-{step:08d}-worker-{rank:05d}.json"
    write_json(settings.output, path, {"step": step, "worker": rank, "keys": list(batch.keys)})
    logger.error("train: loss or gradient is not finite at step %d; keys in %s", step, settings.output.path(path))


def _draw_seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])

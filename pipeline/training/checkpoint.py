"""Training checkpoints: everything a run needs to go on, in safetensors and JSON, whole or absent.

<output>/checkpoints/step-00000100/
    part-00000-of-00002.safetensors   tensors by name; each worker writes those that fall to it
        NAME/weights/TENSOR           every tensor of the state dict of player NAME (tokenizer, generator, ...)
        NAME/ema/TENSOR               its averaged weights, where there are any
        NAME/adamw/TENSOR/KEY         AdamW's step, exp_avg and exp_avg_sq of every trained parameter
    state.json                        written last: a folder without it is no checkpoint
        step, curve                   optimizer steps taken; logged loss terms
        used                          the position in the data: clips taken of every stream, or a dataset's state
        num_parts

Random numbers need no entry: every draw is a function of (seed, step, worker). Every tensor is whole in the file, so a
run goes on with any number of workers and either strategy.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import cast

import torch
from safetensors.torch import load, save
from torch import Tensor

from pipeline.store.documents import read_json, write_json
from pipeline.store.files import Folder
from pipeline.training.parallel import Parallel, like, whole
from pipeline.training.player import Player

CHECKPOINTS_FOLDER = "checkpoints"
_NAME = re.compile(r"checkpoints/step-(\d{8})/state\.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvePoint:
    """What was logged of one step, means over workers and over the parts of the step."""

    step: int
    values: Mapping[str, float]
    """By name: loss terms, gradient norms, learning rates."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progressed:
    """How far a run is."""

    step: int = 0
    """Optimizer steps taken."""
    used: Mapping[str, object]
    """The position in the data, JSON-ready, as the batches themselves have it."""
    curve: tuple[CurvePoint, ...] = ()


def save_training(folder: Folder, players: Sequence[Player], progressed: Progressed, parallel: Parallel) -> None:
    """Write the checkpoint of a step and remove those before it; every worker calls it at the same step."""
    name = _folder_of(progressed.step)
    part = {}
    for place, (key, tensor) in enumerate(_entries(players)):
        gathered = whole(tensor)  # every worker takes part in making each tensor whole, and keeps its share of them
        if place % parallel.world_size == parallel.rank:
            part[key] = gathered.detach().cpu().contiguous()
    folder.write_bytes(_part_path(name, parallel.rank, parallel.world_size), save(part))
    parallel.wait()
    if parallel.rank == 0:
        state = {
            "step": progressed.step,
            "used": dict(progressed.used),
            "curve": [asdict(point) for point in progressed.curve],
            "num_parts": parallel.world_size,
        }
        write_json(folder, f"{name}/state.json", state)
        for step in _steps(folder):
            if step < progressed.step:
                folder.remove(_folder_of(step))
    parallel.wait()


def latest_step(folder: Folder) -> int | None:
    """Step of the newest whole checkpoint, or None."""
    return max(_steps(folder), default=None)


def load_training(folder: Folder, step: int, players: Sequence[Player]) -> Progressed:
    """Put a checkpoint into players made as those that were saved.

    Raises:
        ValueError: The checkpoint is of other players.
    """
    name = _folder_of(step)
    state = read_json(folder, f"{name}/state.json")
    num_parts = cast(int, state["num_parts"])
    found: dict[str, Tensor] = {}
    for part in range(num_parts):
        found |= load(folder.read_bytes(_part_path(name, part, num_parts)))
    for player in players:
        player.begin_state()
    expected = dict(_entries(players))
    other = [
        key
        for key in sorted(set(found) | set(expected))
        if key not in found or key not in expected or found[key].shape != expected[key].shape
    ]
    if other:
        raise ValueError(
            f"{folder.path(name)}: {len(other)} tensors are missing, unknown or of another shape, the first "
            f"{other[0]!r}: the checkpoint is of another model"
        )
    with torch.no_grad():
        for key, tensor in expected.items():
            tensor.copy_(like(found[key], tensor))
    return Progressed(
        step=cast(int, state["step"]), used=cast(Mapping[str, object], state["used"]), curve=_curve_of(state)
    )


def read_curve(folder: Folder) -> tuple[CurvePoint, ...]:
    """What the newest whole checkpoint logged; empty where there is none."""
    step = latest_step(folder)
    return () if step is None else _curve_of(read_json(folder, f"{_folder_of(step)}/state.json"))


def _curve_of(state: Mapping[str, object]) -> tuple[CurvePoint, ...]:
    points = cast(Sequence[Mapping[str, object]], state["curve"])
    return tuple(
        CurvePoint(step=cast(int, point["step"]), values=cast(Mapping[str, float], point["values"])) for point in points
    )


def _entries(players: Sequence[Player]) -> Iterator[tuple[str, Tensor]]:
    for player in players:
        for key, tensor in player.tensors():
            yield f"{player.name}/{key}", tensor


def _folder_of(step: int) -> str:
    return f"{CHECKPOINTS_FOLDER}/step-{step:08d}"


def _part_path(folder: str, part: int, num_parts: int) -> str:
    return f"{folder}/part-{part:05d}-of-{num_parts:05d}.safetensors"


def _steps(folder: Folder) -> list[int]:
    matches = (_NAME.fullmatch(path) for path in folder.find(CHECKPOINTS_FOLDER))
    return [int(match[1]) for match in matches if match]

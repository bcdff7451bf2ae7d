"""Training checkpoints: model, optimizer and progress of one step, in safetensors and JSON, whole or absent.

<output>/checkpoints/step-00000100/
    model.safetensors, config.json   the model, as vitok.model.checkpoint writes it
    optimizer.safetensors            AdamW's state: NAME.step, NAME.exp_avg, NAME.exp_avg_sq of every parameter
    state.json                       written last: step and curve; a folder without it is no checkpoint
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from safetensors.torch import load, save

from pipeline.store.documents import read_json, write_json
from pipeline.store.files import Folder
from vitok.model.autoencoder import AutoEncoder
from vitok.model.checkpoint import load_checkpoint, save_checkpoint

CHECKPOINTS_FOLDER = "checkpoints"
_NAME = re.compile(r"checkpoints/step-(\d{8})/state\.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvePoint:
    """Loss terms of one logged step, means over workers."""

    step: int
    loss: float
    reconstruction: float
    kl: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Progressed:
    """How far a run is."""

    step: int
    """Optimizer steps taken."""
    curve: tuple[CurvePoint, ...]


def save_training(folder: Folder, model: AutoEncoder, optimizer: torch.optim.Optimizer, progressed: Progressed) -> None:
    """Write the checkpoint of a step and remove those before it."""
    name = f"{CHECKPOINTS_FOLDER}/step-{progressed.step:08d}"
    save_checkpoint(folder.subfolder(name).url, model)
    folder.write_bytes(f"{name}/optimizer.safetensors", save(_flatten(model, optimizer)))
    curve = [[point.step, point.loss, point.reconstruction, point.kl] for point in progressed.curve]
    write_json(folder, f"{name}/state.json", {"step": progressed.step, "curve": curve})
    for step in _steps(folder):
        if step < progressed.step:
            folder.remove(f"{CHECKPOINTS_FOLDER}/step-{step:08d}")


def latest_step(folder: Folder) -> int | None:
    """Step of the newest whole checkpoint, or None."""
    return max(_steps(folder), default=None)


def load_training(folder: Folder, step: int, model: AutoEncoder, optimizer: torch.optim.Optimizer) -> Progressed:
    """Put a checkpoint into a model and its optimizer.

    Raises:
        ValueError: The checkpoint is of another model.
    """
    name = f"{CHECKPOINTS_FOLDER}/step-{step:08d}"
    model.load_state_dict(load_checkpoint(folder.subfolder(name).url).state_dict())
    _unflatten(load(folder.read_bytes(f"{name}/optimizer.safetensors")), model, optimizer)
    state = read_json(folder, f"{name}/state.json")
    curve = cast(Sequence[tuple[int, float, float, float]], state["curve"])
    return Progressed(
        step=cast(int, state["step"]),
        curve=tuple(CurvePoint(step=at, loss=loss, reconstruction=mse, kl=kl) for at, loss, mse, kl in curve),
    )


def _steps(folder: Folder) -> list[int]:
    matches = (_NAME.fullmatch(path) for path in folder.find(CHECKPOINTS_FOLDER))
    return [int(match[1]) for match in matches if match]


def _flatten(model: AutoEncoder, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            tensors[f"{name}.{key}"] = value.detach().cpu().contiguous()
    return tensors


def _unflatten(tensors: dict[str, torch.Tensor], model: AutoEncoder, optimizer: torch.optim.Optimizer) -> None:
    state: dict[torch.Tensor, dict[str, torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        for key in ("step", "exp_avg", "exp_avg_sq"):
            value = tensors[f"{name}.{key}"]
            state.setdefault(parameter, {})[key] = value if key == "step" else value.to(parameter.device)
    optimizer.state.update(state)

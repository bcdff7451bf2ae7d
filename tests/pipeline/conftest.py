"""An S3 server for the tests of stores and runs on one."""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from benchmarks.s3 import environment, seaweedfs


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a SeaweedFS server."""
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as url:
        yield url


@pytest.fixture
def s3(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of an empty bucket; its server's address and keys stand in the environment."""
    for name, value in environment(s3_server).items():
        monkeypatch.setenv(name, value)
    file_system = fsspec.filesystem("s3")
    file_system.clear_instance_cache()
    bucket = tmp_path.name.replace("_", "-").lower().strip("-")
    fsspec.filesystem("s3").mkdir(bucket)
    yield f"s3://{bucket}"
    file_system.clear_instance_cache()

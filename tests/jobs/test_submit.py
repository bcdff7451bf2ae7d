"""`ray job submit --working-dir .` runs the same program, on a cluster that asks for a token."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.store.files import Folder
from pipeline.store.index import open_store
from schemas.metadata import LATENT_STORE_FORMAT

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).with_name("ray")
NOT_YET = ("Failed to connect", "No available agent to submit job")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def cluster(tmp_path):
    """`ray start --head` with token authentication, on ports of its own: its address and environment."""
    gcs, dashboard, agent = free_port(), free_port(), free_port()
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("RAY_") and name != "PYTHONPATH"
    } | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{RAY.parent}{os.pathsep}{os.environ['PATH']}",  # an activated environment
    }
    # A short path: Ray's sockets lie in it, and a socket's path has at most 107 bytes.
    folder = Path("/tmp") / f"vitok-ray-{os.getpid()}"
    command = [str(RAY), "start", "--head", "--block", f"--port={gcs}", f"--dashboard-port={dashboard}"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-agent-listen-port={agent}", "--num-cpus=2"]
    log = (tmp_path / "ray-start.log").open("wb")
    head = subprocess.Popen(
        [*command, f"--temp-dir={folder}"], env=environment, stdout=log, stderr=log, start_new_session=True
    )
    yield f"http://127.0.0.1:{dashboard}", environment
    os.killpg(head.pid, signal.SIGKILL)  # with all that it started; SIGTERM takes half a minute
    head.wait()
    log.close()
    shutil.rmtree(folder, ignore_errors=True)


def submit(address, environment, *argv):
    command = [str(RAY), "job", "submit", "--address", address, "--working-dir", ".", "--", "python", *argv]
    for _ in range(60):  # the dashboard takes a while to answer, and the agent that starts jobs a while longer
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if not any(text in done.stdout + done.stderr for text in NOT_YET):
            break
        time.sleep(1)
    return done


def test_jobs_run_submitted_with_the_token_and_full_paths(corpus, tokenizer, cluster, tmp_path):
    address, environment = cluster
    flags = ["--input", str(corpus / "coffee.png"), str(corpus / "bikes.mp4"), "--output", str(tmp_path / "clips")]
    flags += ["--resolution", "32", "--num-frames", "4", "--tubelet", "2x8", "--shard-size", "8"]
    done = submit(address, environment, "jobs/prepare_corpus.py", *flags)
    assert done.returncode == 0, done.stdout + done.stderr + (tmp_path / "ray-start.log").read_text()

    flags = ["--shards", str(tmp_path / "clips"), "--tokenizer", tokenizer, "--output", str(tmp_path / "latents")]
    refused = submit(address, environment | {"RAY_AUTH_TOKEN": "f" * 64}, "jobs/encode_corpus.py", *flags)
    assert refused.returncode != 0
    assert not (tmp_path / "latents").exists()

    lost = submit(address, environment, "jobs/encode_corpus.py", *flags[:-1], "latents")
    assert lost.returncode != 0
    assert "--output: 'latents' is relative" in lost.stdout

    done = submit(address, environment, "jobs/encode_corpus.py", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    store = open_store(Folder(str(tmp_path / "latents")), format_name=LATENT_STORE_FORMAT)
    assert store.document["counts"] == {"planned": 21, "stored": 21, "filtered": 0, "rejected": 0}

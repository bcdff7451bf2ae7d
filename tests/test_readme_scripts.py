"""README's scripts for other programs, run as they stand there but for the store's path, hand out the whole store."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vitok.latents.store import LatentStore

ROOT = Path(__file__).parents[1]
STORES = ROOT / "tests" / "golden" / "latents_v1"
KEEP = """
import runpy, sys
import torch
from safetensors.torch import save_file

printed = {}

def keep(key, latent):
    assert key not in printed, key
    printed[key] = torch.as_tensor(latent).clone()

runpy.run_path(sys.argv[1], init_globals={"print": keep}, run_name="__main__")
save_file(printed, sys.argv[2])
"""
"""Runs a script and keeps what it prints, which is each clip's key and array."""


def scripts():
    """The code of each script by the program it is for."""
    text = (ROOT / "README.md").read_text()
    section = text.split("\nWithout us, ")[1].split("\nThe model alone:\n")[0]
    found = {}
    for code in re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL):
        (program,) = set(re.findall(r"^(?:import|from) (ray|datasets|webdataset)\b", code, flags=re.MULTILINE))
        found[program] = code
    return found


def test_there_is_a_short_script_for_each_program():
    found = scripts()
    assert found.keys() == {"ray", "datasets", "webdataset"}
    for code in found.values():
        assert sum(bool(line) for line in code.splitlines()) <= 10
        assert code.count("runs/latents") == 1


@pytest.mark.parametrize(
    ("program", "store"),
    [
        pytest.param("ray", "parquet-bfloat16", marks=pytest.mark.cluster),
        ("datasets", "parquet-float16"),
        ("datasets", "parquet-bfloat16"),
        ("webdataset", "webdataset-float16"),
        ("webdataset", "webdataset-bfloat16"),
    ],
)
def test_a_script_hands_out_the_whole_store(tmp_path, program, store):
    folder = STORES / store
    script, output = tmp_path / "script.py", tmp_path / "printed"
    script.write_text(scripts()[program].replace("runs/latents", str(folder)))
    environment = os.environ | {
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        # A Ray of its own, on the loopback.
        "RAY_ADDRESS": "local",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", KEEP, str(script), str(output)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    printed = load_file(output)
    expected = {
        key: latent
        for batch in LatentStore(str(folder)).batches(100)
        for key, latent in zip(batch.columns["key"], batch.latents["mean"], strict=True)
    }
    assert printed.keys() == expected.keys()
    for key, latent in expected.items():
        # NumPy, in which Ray Data hands arrays out, has no bfloat16; float32 holds each of its values.
        assert printed[key].dtype == (torch.float32 if program == "ray" else latent.dtype)
        assert torch.equal(printed[key], latent.to(printed[key].dtype)), key

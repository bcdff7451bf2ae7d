"""What a generator trainer imports stands alone: other packages may own the names `pipeline`, `schemas` and `jobs`."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(program, *arguments, first=None):
    """What a program prints, as JSON; with a folder first on its path."""
    path = os.pathsep.join(str(folder) for folder in (first, ROOT) if folder)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": path},
        cwd=first,
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def strangers(tmp_path):
    """A folder whose modules carry the names of the floors that the reader must not need."""
    folder = tmp_path / "strangers"
    folder.mkdir()
    for name in ("pipeline", "schemas", "jobs", "ray", "av"):
        (folder / f"{name}.py").write_text(f"raise ImportError('{name} of someone else')\n")
    return folder


@pytest.mark.parametrize("form", ["parquet", "webdataset"])
def test_a_store_is_read_where_strangers_own_the_names(tmp_path, strangers, write_latent_store, form):
    written = write_latent_store(tmp_path / "latents", form=form)
    program = (
        "import json, sys\n"
        "from vitok.latents.store import LatentStore\n"
        "store = LatentStore(sys.argv[1])\n"
        "keys = [key for batch in store.batches(4) for key in batch.columns['key']]\n"
        "mean = float(store.normalise(store.take([1, 0]).latents['mean']).sum())\n"
        "try:\n"
        "    import schemas\n"
        "except ImportError as error:\n"
        "    print(json.dumps([keys, mean, str(error)]))\n"
    )
    keys, total, error = run(program, written.url, first=strangers)
    assert error == "schemas of someone else"
    assert sorted(keys) == sorted(written.keys)
    assert math.isfinite(total)


def test_no_module_of_the_floor_needs_the_strangers(strangers):
    program = (
        "import importlib, json, pkgutil, sys\n"
        "import vitok\n"
        "names = [module.name for module in pkgutil.walk_packages(vitok.__path__, 'vitok.')]\n"
        "for name in names:\n"
        "    importlib.import_module(name)\n"
        "others = {'ray', 'av', 'pipeline', 'schemas', 'jobs'} & {name.partition('.')[0] for name in sys.modules}\n"
        "print(json.dumps([names, sorted(others)]))\n"
    )
    names, others = run(program, first=strangers)
    assert {"vitok.latents.store", "vitok.model.autoencoder", "vitok.config"} <= set(names)
    assert others == []


def test_the_config_loads_nothing_heavy():
    program = (
        "import json, sys\n"
        "import vitok.config\n"
        "print(json.dumps(sorted({'torch', 'numpy', 'pyarrow', 'ray', 'av'} & set(sys.modules))))\n"
    )
    assert run(program) == []

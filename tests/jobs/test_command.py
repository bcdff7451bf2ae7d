"""The `vitok` program and the job files: same program, exit codes, nothing heavy where nothing is done."""

import subprocess
import sys
from pathlib import Path

import pytest

from jobs.command import COMMANDS, EXIT_FAILED, EXIT_USAGE

ROOT = Path(__file__).parents[2]


def ran(*argv, cwd=ROOT):
    return subprocess.run([sys.executable, *argv], cwd=cwd, capture_output=True, text=True)


def test_help_names_every_command():
    done = ran("-m", "jobs.command", "--help")
    assert done.returncode == 0
    for name, (_, purpose) in COMMANDS.items():
        assert f"{name}" in done.stdout
        assert purpose in done.stdout


def test_every_job_file_is_a_command():
    files = {path.stem for path in (ROOT / "jobs").glob("*_*.py") if path.stem != "__init__"}
    assert files == {module.removeprefix("jobs.") for module, _ in COMMANDS.values()}


@pytest.mark.parametrize("name", list(COMMANDS))
def test_a_job_file_and_its_command_have_the_same_flags(name, tmp_path):
    module, _ = COMMANDS[name]
    script = ROOT / f"{module.replace('.', '/')}.py"
    by_file = ran(str(script), "--help", cwd=tmp_path)  # from elsewhere: the install must be enough
    by_name = ran("-m", "jobs.command", name, "--help")
    assert by_file.returncode == by_name.returncode == 0
    flags = [{word for word in done.stdout.split() if word.startswith("--")} for done in (by_file, by_name)]
    assert flags[0] == flags[1]
    assert len(flags[0]) > 1


def test_help_of_the_program_loads_neither_ray_nor_torch_nor_tyro():
    code = (
        "import sys; sys.argv = ['vitok', '--help']\n"
        "from jobs.command import main; main()\n"
        "print(sorted({'ray', 'torch', 'tyro', 'numpy', 'pyarrow'} & set(sys.modules)))"
    )
    assert ran("-c", code).stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("nonsense",), "no command 'nonsense'"),
        (("prepare", "--input", "no-such-folder", "--output", "x"), "no such file or folder"),
        (("prepare", "--input", ".", "--output", "x", "--tubelet", "4by8"), 'expected "QxP"'),
        (("prepare", "--input", ".", "--output", "x", "--resolution", "250"), "--resolution: got 250"),
        (("prepare", "--input", ".", "--output", "x", "--num-frames", "4"), "at least 8"),
        (("train", "--shards", "x", "--output", "y", "--variant", "Q-B/16"), "variant: got 'Q-B/16'"),
        (("encode", "--shards", "x", "--tokenizer", "y", "--output", "z"), "holds no store.json"),
        (("verify", "--store", "no-such-store"), "holds no store.json"),
    ],
)
def test_what_a_user_can_mend_is_one_message(argv, message, tmp_path):
    done = ran("-m", "jobs.command", *argv, cwd=tmp_path)
    assert done.returncode == EXIT_USAGE
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.cluster
def test_verify_exits_with_failure_where_a_store_is_not_whole(corpus, tmp_path):
    store = tmp_path / "clips"
    flags = ("--input", str(corpus / "coffee.png"), "--output", str(store), "--resolution", "32", "--tubelet", "16")
    assert ran("-m", "jobs.command", "prepare", *flags, "--num-frames", "1").returncode == 0
    assert ran("-m", "jobs.command", "verify", "--store", str(store)).returncode == 0
    (shard,) = store.glob("grid=*/*.tar")
    shard.unlink()
    done = ran("-m", "jobs.command", "verify", "--store", str(store))
    assert done.returncode == EXIT_FAILED
    assert shard.name in done.stdout

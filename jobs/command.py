"""Commands: argv to config to one function call, with logging and exit codes; and the `vitok` program."""

import time

_STARTED = time.perf_counter()  # before everything else, so that the run record can say what imports cost

import dataclasses  # noqa: E402
import importlib  # noqa: E402
import logging  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from typing import TYPE_CHECKING, TypeVar  # noqa: E402

if TYPE_CHECKING:
    from pipeline.runs.record import StartClock

Config = TypeVar("Config")

COMMANDS = {
    "prepare": ("jobs.prepare_corpus", "media to clip shards"),
    "train": ("jobs.train_tokenizer", "clip shards to a tokenizer"),
    "encode": ("jobs.encode_corpus", "clip shards or media, and a tokenizer, to a latent store"),
    "audit": ("jobs.audit_reconstruction", "how well tokenizers give clips back, with a record and a report"),
    "compare": ("jobs.compare_audits", "two audits side by side"),
    "retry": ("jobs.retry_rejects", "try once more what failed for a passing reason"),
    "verify": ("jobs.verify_store", "prove that a store is whole"),
    "show": ("jobs.show_store", "a page about a store: what it holds, what it lost, where it comes from"),
    "merge": ("jobs.merge_stores", "join stores that were made alike"),
    "why-stale": ("jobs.explain_staleness", "what differs between what made a latent store and what is there now"),
    "train-generator": ("jobs.train_generator", "a latent store to a generator of latents"),
    "sample": ("jobs.sample_generator", "a generator and its tokenizer to clips, with pictures and scores"),
    "study": ("jobs.study_scaling", "train tokenizers of several sizes, and how quality follows size"),
    "describe": ("jobs.describe_model", "parameters, MACs and latent size of variants"),
    "demo": ("jobs.run_demo", "the whole chain on photographs and clips from installed packages"),
}
"""Commands of `vitok`: module and what it does. `python jobs/NAME.py` runs the same."""

_SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray in the environment of a job that was submitted."""
_PLACES = (
    *("input", "shards", "validation", "tokenizer", "latents", "store", "stores", "generator", "reference"),
    *("first", "second", "output"),
)
"""Flags that name a file or a folder."""

EXIT_FAILED = 1
"""The answer is no: a store is not whole, more is rejected than is borne, the disk is full or a server fails."""
EXIT_USAGE = 2
"""A flag or an input cannot be used; the message says which."""
EXIT_REFUSED = 3
"""The output belongs to another run or another plan."""


def run(
    config_class: type[Config],
    function: "Callable[[Config, StartClock], int]",
    argv: Sequence[str] | None = None,
    *,
    default: Config | None = None,
) -> int:
    """Parse flags into a config, call the job with it and the clock of its start, and return its exit code.

    What a user can mend is one message without a traceback; everything else is a programming fault and keeps its own.

    Args:
        config_class: A dataclass; the fields of dataclasses in it are flags beside its own.
        function: The job.
        argv: Flags; None: those of the process.
        default: What flags that are not given stand at, where not at the class's defaults.
    """
    import tyro

    from pipeline.runs.planned import TooManyRejectsError
    from pipeline.runs.record import StartClock
    from pipeline.store.faults import StorageError
    from pipeline.store.plan import RunRefusedError

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    for name in ("jobs", "pipeline", "vitok"):
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        flags = (tyro.conf.OmitArgPrefixes,)
        if default is None:
            config = tyro.cli(config_class, args=argv, config=flags)
        else:
            config = tyro.cli(config_class, args=argv, config=flags, default=default)
        if _SUBMITTED in os.environ:
            _refuse_relative_paths(config)
        return function(config, StartClock(started=_STARTED))
    except RunRefusedError as error:
        return _fail(error, EXIT_REFUSED)
    except (TooManyRejectsError, StorageError) as error:
        return _fail(error, EXIT_FAILED)
    except (ValueError, FileNotFoundError) as error:
        if hasattr(error, "__notes__"):  # a run had begun, so its flags and inputs were good
            raise
        return _fail(error, EXIT_USAGE)


def main() -> int:
    """The `vitok` program: `vitok COMMAND FLAGS`."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        sys.stdout.write(_usage())
        return 0
    if name not in COMMANDS:
        sys.stderr.write(f"vitok: no command {name!r}\n\n{_usage()}")
        return EXIT_USAGE
    module, _ = COMMANDS[name]
    sys.argv = [f"vitok {name}", *sys.argv[2:]]
    code: int = importlib.import_module(module).main()
    return code


def _refuse_relative_paths(config: object) -> None:
    """Refuse what would be read from, or worse written into, the copy of the working directory that Ray removes.

    Raises:
        ValueError: A flag that names a place is a relative path.
    """
    from vitok.adapters.name import is_function_name

    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            _refuse_relative_paths(value)
        if field.name not in _PLACES:
            continue
        for place in (value,) if isinstance(value, str) else value:
            if field.name == "tokenizer" and is_function_name(place):
                continue
            if place and "://" not in place and not place.startswith("/"):
                raise ValueError(
                    f"--{field.name}: {place!r} is relative, and a submitted job runs in a copy of the working "
                    "directory that Ray removes: give a full path or a URL"
                )


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}} {purpose}\n" for name, (_, purpose) in COMMANDS.items()]
    return "usage: vitok COMMAND [FLAGS]\n\n" + "".join(lines) + "\n`vitok COMMAND --help` lists its flags.\n"


def _fail(error: Exception, code: int) -> int:
    sys.stderr.write(f"error: {error}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())

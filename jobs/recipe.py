"""Jobs that begin from a named recipe: `--recipe NAME`, and the other flags change what it says."""

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import TypeVar

import tyro

from jobs.command import EXIT_FAILED, EXIT_USAGE, run
from pipeline.runs.record import StartClock
from pipeline.training.fit import NonFiniteLossError

Config = TypeVar("Config")


def run_training(
    config_class: type[Config],
    train: Callable[[Config, StartClock], object],
    recipes: Mapping[str, Callable[..., Config]],
    *,
    needed: tuple[str, ...],
) -> int:
    """Run a training with the flags of this process, and return its exit code.

    Args:
        config_class: Of the flags.
        train: The training.
        recipes: By name; called with the flags that each leaves open.
        needed: Names of those: they stay needed.
    """

    def job(config: Config, clock: StartClock) -> int:
        try:
            train(config, clock)
        except NonFiniteLossError as error:
            sys.stderr.write(f"error: {error}\n")
            return EXIT_FAILED
        return 0

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--recipe", default="")
    chosen, argv = parser.parse_known_args()
    if not chosen.recipe:
        return run(config_class, job, argv)
    if chosen.recipe not in recipes:
        sys.stderr.write(f"error: --recipe: got {chosen.recipe!r}, expected one of {', '.join(recipes)}\n")
        return EXIT_USAGE
    return run(config_class, job, argv, default=recipes[chosen.recipe](**dict.fromkeys(needed, tyro.MISSING)))

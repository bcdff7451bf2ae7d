"""Train a tokenizer: ViTok, stage 1 or 2, on clip shards; flags change the recipe they follow."""

import argparse
import sys

import tyro

from jobs.command import EXIT_FAILED, EXIT_USAGE, run
from pipeline.runs.record import StartClock
from pipeline.training.config import TrainConfig
from pipeline.training.recipes import RECIPES
from pipeline.training.tokenizer import NonFiniteLossError, train


def train_tokenizer(config: TrainConfig, clock: StartClock) -> int:
    """Run the job."""
    try:
        train(config, clock=clock)
    except NonFiniteLossError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_FAILED
    return 0


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--recipe", default="")
    chosen, argv = parser.parse_known_args()
    if not chosen.recipe:
        return run(TrainConfig, train_tokenizer, argv)
    if chosen.recipe not in RECIPES:
        sys.stderr.write(f"error: --recipe: got {chosen.recipe!r}, expected one of {', '.join(RECIPES)}\n")
        return EXIT_USAGE
    # The flags that a recipe leaves open stay needed ones.
    default = RECIPES[chosen.recipe](shards=tyro.MISSING, output=tyro.MISSING)
    return run(TrainConfig, train_tokenizer, argv, default=default)


if __name__ == "__main__":
    sys.exit(main())

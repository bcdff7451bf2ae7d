"""Train a generator: a diffusion transformer on a latent store; flags change the recipe they follow."""

import sys

from jobs.recipe import run_training
from pipeline.runs.record import StartClock
from pipeline.training.fit import Trained
from pipeline.training.generator import train_generator
from pipeline.training.generator_config import GeneratorTrainConfig
from pipeline.training.generator_recipes import GENERATOR_RECIPES


def train(config: GeneratorTrainConfig, clock: StartClock) -> Trained:
    """Run the job."""
    return train_generator(config, clock=clock)


def main() -> int:
    """Entry point."""
    return run_training(GeneratorTrainConfig, train, GENERATOR_RECIPES, needed=("store", "output"))


if __name__ == "__main__":
    sys.exit(main())

"""Samples of a generator: latents of asked classes, each drawn from its own seed.

Axes: B batch, N samples, T' x H' x W' the grid of tubelets, K latent channels.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from vitok.config import Grid
from vitok.generator.config import GeneratorConfig, Process
from vitok.generator.diffusion import NUM_STEPS, Predict, ddim, ddpm
from vitok.generator.flow import euler, heun

Solver = Literal["ddim", "ddpm", "euler", "heun"]

SOLVERS: Mapping[Process, tuple[Solver, ...]] = {"diffusion": ("ddim", "ddpm"), "flow": ("euler", "heun")}
"""Solvers by process, the default one first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleSettings:
    """All of sampling that changes a sample; the defaults are the paper's sweep's (arXiv:2501.09755, appendix)."""

    num_steps: int = 250
    guidance: float = 1.5
    """Scale of classifier-free guidance; 1: none."""
    solver: Solver | None = None
    """None: the process's default."""
    batch_size: int = 32
    """Samples of one forward pass. The last batch is filled up, so that every pass has one shape."""

    def __post_init__(self) -> None:
        if self.num_steps < 1 or self.batch_size < 1:
            raise ValueError(
                f"num_steps and batch_size: got {self.num_steps} and {self.batch_size}, expected at least 1"
            )
        if not math.isfinite(self.guidance):
            raise ValueError(f"guidance: got {self.guidance}, expected a finite number")
        if self.solver is not None and self.solver not in get_args(Solver):
            raise ValueError(f"solver: got {self.solver!r}, expected one of {', '.join(get_args(Solver))}")

    def solver_of(self, process: Process) -> Solver:
        """The solver that samples of a process take.

        Raises:
            ValueError: It is another process's, or takes no more steps than there are.
        """
        solver = self.solver or SOLVERS[process][0]
        if solver not in SOLVERS[process]:
            raise ValueError(f"solver: got {solver} for a {process}, expected {' or '.join(SOLVERS[process])}")
        if process == "diffusion" and self.num_steps > NUM_STEPS:
            raise ValueError(f"num_steps: got {self.num_steps}, a diffusion has {NUM_STEPS}")
        return solver


def sample_latents(
    config: GeneratorConfig,
    network: Callable[[Tensor, Tensor, Tensor], Tensor],
    *,
    classes: Sequence[int],
    seeds: Sequence[int],
    settings: SampleSettings,
    grid: Grid | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Latents as the tokenizer's decoder takes them.

    A sample's noise is drawn from its own seed on the CPU, so it is one on every device, and for one `batch_size` its
    bits depend neither on the samples beside it nor on how many they are; another `batch_size` changes rounding alone.

    Args:
        config: Of the generator.
        network: The transformer: noisy latents, times, classes to outputs; runs without gradients.
        classes: N class numbers; the null class, `num_classes`, asks for anything.
        seeds: N seeds of the samples.
        settings: How.
        grid: Of the samples; None: the first that the generator was trained on.
        device: Where the network is; None: the CPU.

    Returns:
        Float32 on the CPU, [N, T', H', W', K], denormalised.

    Raises:
        ValueError: Classes and seeds are not as many, a class is unknown, or the solver is another process's.
    """
    solver = settings.solver_of(config.process)
    unknown = sorted({label for label in classes if not 0 <= label <= config.dit.num_classes})
    if len(classes) != len(seeds) or unknown:
        raise ValueError(
            f"classes: got {len(classes)} for {len(seeds)} seeds and unknown numbers {unknown}, expected one a seed of "
            f"0 to {config.dit.num_classes}"
        )
    grid = grid or config.grids[0]
    shape = (grid.frames, grid.height, grid.width, config.dit.latent_channels)
    latents = [torch.empty(0, *shape)]
    for first in range(0, len(seeds), settings.batch_size):
        chunk = slice(first, first + settings.batch_size)
        missing = settings.batch_size - len(seeds[chunk])
        generators = [torch.Generator().manual_seed(seed) for seed in (*seeds[chunk], *[0] * missing)]
        labels = torch.tensor([*classes[chunk], *[config.dit.null_class] * missing], device=device)
        draw = _Noise(generators, shape, device)
        with torch.no_grad():  # not inference mode: weights divided among workers keep what they were gathered into
            predict = guided(network, labels, config=config, guidance=settings.guidance)
            found = _solve(solver, predict, draw, config=config, num_steps=settings.num_steps)
        latents.append(found[: len(seeds[chunk])].cpu())
    mean, std = torch.tensor(config.latents_mean), torch.tensor(config.latents_std)
    return torch.cat(latents) * std + mean


def guided(
    network: Callable[[Tensor, Tensor, Tensor], Tensor], classes: Tensor, *, config: GeneratorConfig, guidance: float
) -> Predict:
    """The network under classes [B], led away from what it says under none (Ho & Salimans, arXiv:2207.12598).

    u + guidance (c - u) of noise or velocity, all latent channels alike (DiT's published code guides three of its
    four); a learned variance stays the conditional one. A guidance of 1 is the network under the classes itself.
    """
    if guidance == 1.0:
        return lambda latents, times: network(latents, times, classes)
    channels = config.dit.latent_channels
    both = torch.cat([classes, torch.full_like(classes, config.dit.null_class)])

    def predict(latents: Tensor, times: Tensor) -> Tensor:
        outputs = network(torch.cat([latents, latents]), torch.cat([times, times]), both).float()
        conditional, unconditional = outputs.chunk(2)
        away = conditional[..., :channels] - unconditional[..., :channels]
        return torch.cat([unconditional[..., :channels] + guidance * away, conditional[..., channels:]], dim=-1)

    return predict


class _Noise:
    """Standard noise of a batch, each sample's from its own generator."""

    def __init__(
        self, generators: Sequence[torch.Generator], shape: tuple[int, ...], device: torch.device | None
    ) -> None:
        self._generators = generators
        self._shape = shape
        self._device = device

    def __call__(self) -> Tensor:
        """Float32 [B, T', H', W', K]; new at each call."""
        return torch.stack([torch.randn(self._shape, generator=each) for each in self._generators]).to(self._device)


def _solve(solver: Solver, predict: Predict, draw: _Noise, *, config: GeneratorConfig, num_steps: int) -> Tensor:
    match solver:
        case "ddim":
            return ddim(predict, draw(), num_steps=num_steps)
        case "ddpm":
            learned = config.dit.learned_variance
            return ddpm(predict, draw(), num_steps=num_steps, learned_variance=learned, draw=draw)
        case "euler":
            return euler(predict, draw(), num_steps=num_steps)
        case "heun":
            return heun(predict, draw(), num_steps=num_steps)

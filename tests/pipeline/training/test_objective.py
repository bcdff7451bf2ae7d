"""A step of each stage, without Ray: what moves, what stays, and that parts of a step make the whole."""

import shutil
from dataclasses import replace

import pytest
import torch

from pipeline.training.config import IntervalFlags, LossFlags, ModelFlags, OptimizerFlags, ParallelFlags
from pipeline.training.loop import LoopSettings, _take_step
from pipeline.training.parallel import Parallel
from pipeline.training.recipes import RECIPES, tiny
from pipeline.training.worker import build_objective
from vitok.config import AutoEncoderConfig
from vitok.model.autoencoder import AutoEncoder
from vitok.model.checkpoint import save_checkpoint

ALONE = Parallel(rank=0, world_size=1, device=torch.device("cpu"), strategy="ddp")
PIXELS = torch.rand(4, 3, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
FROZEN = ("tubelet_embed", "encoder.", "encoder_to_code")


def objective_of(config):
    return build_objective(
        config, AutoEncoderConfig.from_name("N-N/8", latent_channels=4), [], parallel=ALONE, lpips=None
    )


def take(objective, *, steps=1, accumulation=1):
    settings = LoopSettings(
        output=None,
        optimizer=OptimizerFlags(max_steps=steps, accumulation=accumulation, precision="float32"),
        intervals=IntervalFlags(),
        validate_every=1,
    )
    return [_take_step(settings, objective, PIXELS, step=step, parallel=ALONE) for step in range(steps)]


@pytest.fixture
def stage_one():
    recipe = tiny(RECIPES["laptop"](shards=("clips",), output="out"))
    return replace(
        recipe,
        model=ModelFlags(variant="N-N/8", latent_channels=4),
        optimizer=OptimizerFlags(max_steps=20, learning_rate=6.4e-2, warmup_fraction=0.0, ema_decay=0.5),
    )


@pytest.fixture
def stage_two(stage_one, tmp_path):
    torch.manual_seed(3)
    save_checkpoint(str(tmp_path), AutoEncoder(AutoEncoderConfig.from_name("N-N/8", latent_channels=4)))
    gan = replace(stage_one.gan, gan_weight=1.0, gan_start_step=0, gan_ramp_steps=0)
    return replace(stage_one, stage=2, tokenizer=str(tmp_path), gan=gan)


def weights(player):
    return {name: value.detach().clone() for name, value in player.module.state_dict().items()}


def test_stage_one_moves_everything_and_keeps_an_average(stage_one):
    objective = objective_of(stage_one)
    (tokenizer,) = objective.players
    before = weights(tokenizer)
    first = take(objective)[0]
    after, kept = weights(tokenizer), tokenizer.kept_weights()
    assert all((before[name] != after[name]).any() for name in before)
    for name, average in kept.items():
        torch.testing.assert_close(average, 0.5 * before[name] + 0.5 * after[name])
    with tokenizer.keeping():
        assert all(torch.equal(value, kept[name]) for name, value in tokenizer.module.state_dict().items())
    assert all(torch.equal(value, after[name]) for name, value in weights(tokenizer).items())
    assert set(first) == {
        f"tokenizer/{name}" for name in ("total", "pixel", "kl", "gradient_norm", "learning_rate", "ema_decay")
    }


def test_stage_two_moves_decoder_and_discriminator_and_no_encoder(stage_two):
    objective = objective_of(stage_two)
    tokenizer, discriminator = objective.players
    before, judge = weights(tokenizer), weights(discriminator)
    values = take(objective, steps=2)[1]
    for name, value in weights(tokenizer).items():
        assert torch.equal(value, before[name]) == name.startswith(FROZEN), name
    still = {name for name, value in weights(discriminator).items() if torch.equal(judge[name], value)}
    assert still <= {"logit.bias"}  # within the hinge what real frames pull up, reconstructions pull down
    assert {"tokenizer/gan", "discriminator/total", "discriminator/real_logit", "discriminator/gradient_norm"} <= set(
        values
    )


def test_the_discriminator_learns_to_tell_reconstructions(stage_two):
    gan = replace(stage_two.gan, gan_weight=0.0, discriminator_warmup_steps=0, discriminator_learning_rate=3e-3)
    values = take(objective_of(replace(stage_two, gan=gan)), steps=30)
    gap = [float(value["discriminator/real_logit"] - value["discriminator/fake_logit"]) for value in values]
    assert gap[-1] > 1.0 > abs(gap[0])


def test_parts_of_a_step_make_the_whole(stage_one):
    """Without noise the mean of the parts' gradients is the gradient of the mean; norms are of it."""
    model = replace(stage_one.model, bottleneck="none")
    config = replace(stage_one, model=model, loss=LossFlags(lpips_weight=0.0, pixel_loss="charbonnier"))
    autoencoder = model.autoencoder()
    found = []
    for accumulation in (1, 2, 4):
        objective = build_objective(config, autoencoder, [], parallel=ALONE, lpips=None)
        values = take(objective, steps=3, accumulation=accumulation)
        found.append([[float(value[f"tokenizer/{name}"]) for name in ("total", "gradient_norm")] for value in values])
    torch.testing.assert_close(torch.tensor(found[1]), torch.tensor(found[0]), rtol=2e-4, atol=1e-6)
    torch.testing.assert_close(torch.tensor(found[2]), torch.tensor(found[0]), rtol=2e-4, atol=1e-6)


def test_gradients_are_clipped_after_the_backward_pass(stage_one):
    """The learning rate does not show it (Adam divides it out), the gradient left in place does."""
    config = replace(stage_one, optimizer=replace(stage_one.optimizer, max_grad_norm=1e-3))
    (player,) = (objective := objective_of(config)).players
    seen = []
    player.step = lambda _: seen.append(torch.stack([value.grad.norm() for value in player.module.parameters()]).norm())
    values = take(objective)[0]
    assert values["tokenizer/gradient_norm"] > 0.01
    torch.testing.assert_close(seen[0], torch.tensor(1e-3), rtol=1e-3, atol=0)


def test_activation_checkpointing_changes_no_bit(stage_one):
    plain = take(objective_of(stage_one), steps=2)
    config = replace(stage_one, parallel=ParallelFlags(activation_checkpointing=True))
    assert take(objective_of(config), steps=2) == plain


def test_every_recipe_is_one_and_has_its_twin():
    for name in [name for name in RECIPES if name.startswith("paper")]:
        config = RECIPES[name](shards=("clips",), output="out")
        assert name.endswith("_tiny") or f"{name}_tiny" in RECIPES
        assert (config.stage == 2) == ("stage2" in name)
    image = RECIPES["paper_image_256"](shards=("clips",), output="out")
    assert (image.optimizer.max_steps, image.data.batch_size) == (100_000, 1024)
    assert image.peak_learning_rate == pytest.approx(4e-4)
    assert (image.loss.kl_weight, image.loss.lpips_weight, image.optimizer.weight_decay) == (1e-3, 1.0, 1e-4)
    second = RECIPES["paper_image_256_stage2"](shards=("clips",), output="out")
    assert (second.data.batch_size, second.optimizer.ema_decay, second.gan.gan_weight) == (256, 0.9999, 0.05)
    assert (second.gan.discriminator_learning_rate, second.gan.discriminator_warmup_steps) == (2e-5, 25_000)


@pytest.mark.filterwarnings("ignore")  # the compiler warns of itself
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_step_is_the_step(stage_one):
    config = replace(stage_one, parallel=ParallelFlags(compile=True))
    plain, compiled = take(objective_of(stage_one), steps=2), take(objective_of(config), steps=2)
    torch.testing.assert_close(compiled, plain, rtol=1e-3, atol=1e-5)

"""Fine-tuning equals what plain calls of timm give: groups, learning rates, losses, moving average."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor

from patchmix import checkpoint
from patchmix.config import DataConfig, EvalRunConfig, FinetuneConfig
from patchmix.data.streams import Purpose, keyed_generator, libraries_seeded
from patchmix.errors import RunError, UserError
from patchmix.evaluation.tuning import Tuner, tune
from patchmix.evaluation.tuning_recipe import Mixing, layer_groups, learning_rate, make_plan
from patchmix.models.loading import LoadedEncoder, resolve_encoder
from patchmix.models.vit import create_vit
from patchmix.randomness import seed_step

CPU: dict[str, Any] = {"device": torch.device("cpu"), "precision": "32-true"}


def config(**options: Any) -> FinetuneConfig:
    data = DataConfig(name="folder", root="images")
    run = EvalRunConfig(device="cpu", num_threads=1)
    return FinetuneConfig(**{"checkpoint": "run", "data": data, "run": run, "epochs": 2, "batch_size": 8, **options})


@pytest.fixture
def loaded(encoder, spec) -> LoadedEncoder:
    return LoadedEncoder(encoder.eval(), spec, "an encoder")


@pytest.fixture
def tuner(loaded, spec, make_striped) -> Callable[..., Tuner]:
    def build(number: int = 20, **options: Any) -> Tuner:
        return Tuner(loaded, make_striped(number), spec, config(**options), **CPU)

    return build


def losses_of(tuner: Tuner, steps_done: int = 0) -> list[Tensor]:
    return [tuner.step(step, batch) for step, batch in enumerate(tuner.batches(steps_done), start=steps_done + 1)]


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext"])
def test_layer_decay_groups_are_timms(name: str) -> None:
    network = timm.create_model(name, num_classes=3)
    named = {parameter: name for name, parameter in network.named_parameters()}
    ours = layer_groups(network, 0.05, 0.75)
    theirs = create_optimizer_v2(network, opt="adamw", lr=1.0, weight_decay=0.05, layer_decay=0.75).param_groups

    def told(groups: Any) -> list[Any]:
        return [(each["weight_decay"], each["lr_scale"], [named[one] for one in each["params"]]) for each in groups]

    assert told(ours) == told(theirs)
    assert len({each["lr_scale"] for each in ours}) > 3


def test_our_encoder_has_the_groups_of_timms_vit(loaded: LoadedEncoder) -> None:
    network = loaded.classifier(2)
    scales = {}
    for group in layer_groups(network, 0.05, 0.5):
        scales |= {id(parameter): (group["lr_scale"], group["weight_decay"]) for parameter in group["params"]}
    found = {name: scales[id(parameter)] for name, parameter in network.named_parameters()}
    assert found["head.weight"] == (1, 0.05)
    assert found["norm.weight"] == (0.5, 0)  # timm counts it to the last block
    assert found["blocks.1.attn.qkv.weight"] == (0.5, 0.05)
    assert found["blocks.0.attn.qkv.weight"] == (0.25, 0.05)
    assert found["pos_embed"] == found["cls_token"] == (0.125, 0)


def test_five_steps_have_the_losses_of_plain_timm_calls(make_striped) -> None:
    start = resolve_encoder("timm:test_vit", pretrained=False)
    options = config(epochs=2, batch_size=8, warmup_epochs=1.0, ema_decay=0.9, lr=1e-2, warmup_lr=1e-3, final_lr=1e-4)
    tuner = Tuner(start, make_striped(20), start.spec, options, **CPU)
    assert tuner.plan.augmentation == "crop"

    plain = timm.create_model("test_vit", num_classes=2, drop_path_rate=0.1)
    plain.load_state_dict(tuner.network.state_dict())
    ema = ModelEmaV3(plain, decay=0.9)
    optimizer = create_optimizer_v2(plain, opt="adamw", lr=1e-2 * 8 / 256, weight_decay=0.05, layer_decay=0.75)
    warmup = {"warmup_t": 3, "warmup_lr_init": 1e-3, "warmup_prefix": True}
    scheduler = CosineLRScheduler(optimizer, t_initial=2, lr_min=1e-4, t_in_epochs=False, **warmup)
    erase = RandomErasing(0.25, mode="pixel", device="cpu")
    mixup = Mixup(0.8, 1.0, label_smoothing=0.1, num_classes=2)
    criterion = SoftTargetCrossEntropy()
    plain.train()

    ours, theirs = [], []
    for step, batch in enumerate(tuner.batches(), start=1):
        if step > 5:
            break
        ours.append(tuner.step(step, batch))
        seed_step(0, step, 0)
        images = (batch.images / 255 - 0.5) / 0.5
        with libraries_seeded(int(keyed_generator(Purpose.MIXUP, 0, step).integers(2**32))):
            images, targets = mixup(erase(images), batch.labels)
        loss = criterion(plain(images), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update(plain)
        scheduler.step_update(step)
        theirs.append(loss.detach())
    torch.testing.assert_close(torch.stack(ours), torch.stack(theirs), rtol=1e-4, atol=1e-5)
    assert len({round(float(each), 4) for each in ours}) == 5
    for one, other in (
        (tuner.network.state_dict(), plain.state_dict()),
        (tuner.ema.module.state_dict(), ema.module.state_dict()),  # type: ignore[union-attr]
    ):
        for name, value in one.items():
            torch.testing.assert_close(value, other[name], rtol=1e-3, atol=1e-4)
    assert not torch.equal(tuner.network.state_dict()["head.weight"], ema.module.state_dict()["head.weight"])


def test_the_learning_rate_warms_up_and_ends_as_told(loaded: LoadedEncoder) -> None:
    options = config(epochs=10, warmup_epochs=4, lr=0.32, warmup_lr=0.001, final_lr=0.002)
    plan = make_plan(options, loaded.spec, loaded.classifier(2), 20)
    rates = [learning_rate(options, plan, step) for step in range(plan.total_steps)]
    assert (plan.total_steps, plan.warmup_steps) == (30, 12)
    assert rates[0] == 0.001
    assert rates[12] == max(rates) == pytest.approx(0.01)
    assert rates[-1] == pytest.approx(0.002)
    assert all(first < second for first, second in itertools.pairwise(rates[:13]))
    assert all(first > second for first, second in itertools.pairwise(rates[12:]))


def test_the_warm_up_takes_at_most_half_of_the_steps(loaded: LoadedEncoder) -> None:
    plan = make_plan(config(epochs=4, warmup_epochs=10), loaded.spec, loaded.classifier(2), 20)
    assert (plan.total_steps, plan.warmup_steps) == (12, 6)


@pytest.mark.parametrize(
    ("width", "name", "num_images", "lr", "batch_size"),
    [(192, "folder", 5000, 1e-3, 256), (384, "cifar10", 100, 5e-4, 100), (768, "imagenet", 5000, 5e-4, 1024)],
)
def test_null_means_the_published_value(loaded, width, name, num_images, lr, batch_size) -> None:
    options = config(batch_size=None, data=DataConfig(name=name, root="images"))
    plan = make_plan(options, dataclasses.replace(loaded.spec, width=width), loaded.encoder, num_images)
    assert (plan.lr, plan.batch_size) == (lr, batch_size)


def test_a_last_batch_of_one_image_is_left_out_only_for_batch_norm(loaded, spec) -> None:
    resnet = timm.create_model("test_resnet", num_classes=2)
    assert make_plan(config(), spec, resnet, 17).drop_last
    assert make_plan(config(), spec, resnet, 17).steps_per_epoch == 2
    assert not make_plan(config(), spec, resnet, 18).drop_last
    assert make_plan(config(), spec, loaded.encoder, 17).steps_per_epoch == 3


@pytest.mark.parametrize("number", [1, 2, 7, 8])
@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0)])
def test_targets_say_how_much_of_each_image_is_in_the_mix(number: int, mixup: float, cutmix: float) -> None:
    options = config(mixup=mixup, cutmix=cutmix, smoothing=0.0)
    labels = torch.arange(number)
    # Each image has its number + 1 in every pixel, so the mix can be read off its mean.
    images = (labels + 1.0)[:, None, None, None].expand(-1, 1, 32, 32).clone()
    with libraries_seeded(6):
        mixed, targets = Mixing(options, number)(images, labels)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(number))
    torch.testing.assert_close(targets @ (labels + 1.0), mixed.mean(dim=(1, 2, 3)), rtol=1e-4, atol=1e-4)
    if number > 1:
        assert 0.01 < targets[0, 0] < 0.99
    if number % 2:
        assert targets[-1, -1] == 1


def test_smoothing_spreads_a_share_over_all_classes() -> None:
    with libraries_seeded(6):
        _, targets = Mixing(config(mixup=0.8, smoothing=0.1), 4)(torch.zeros(3, 1, 8, 8), torch.tensor([0, 1, 2]))
    torch.testing.assert_close(targets[2], torch.tensor([0.025, 0.025, 0.925, 0.025]))


@pytest.mark.parametrize(("smoothing", "loss"), [(0.0, "CrossEntropyLoss"), (0.1, "LabelSmoothingCrossEntropy")])
def test_without_mixing_labels_are_labels(tuner, smoothing: float, loss: str) -> None:
    made = tuner(mixup=0.0, cutmix=0.0, smoothing=smoothing, drop_path=0.0, erasing=0.0)
    assert type(made._loss).__name__ == loss
    batch = next(iter(made.batches()))
    _, labels = made._prepared(1, batch)
    assert labels.equal(batch.labels)
    expected = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)
    images, _ = made._prepared(1, batch)
    logits = made.network(images)
    torch.testing.assert_close(made.step(1, batch), expected(logits, labels).detach())


def test_stopping_and_going_on_is_bit_identical(tuner, tmp_path) -> None:
    options = {"number": 19, "epochs": 2, "rand_augment": "rand-m9-mstd0.5-inc1", "clip_grad_norm": 1.0}
    whole = tuner(**options)
    losses = losses_of(whole)
    assert len(losses) == 6
    first = tuner(**options)
    for step, batch in zip(range(1, 5), first.batches(), strict=False):
        first.step(step, batch)
    path = checkpoint.checkpoint_path(tmp_path, 4)
    checkpoint.write(path, first.tensors(), {"step": 4, "scaler": first.scaler()})
    second = tuner(**options)
    second.load(checkpoint.read(path))
    assert losses_of(second, 4) == losses[4:]
    one, two = whole.tensors(), second.tensors()
    assert one.keys() == two.keys()
    assert [name for name in one if not one[name].equal(two[name])] == []


def test_a_frozen_encoder_stays_as_it_is_and_the_head_learns(tuner, loaded, make_striped) -> None:
    made = tuner(freeze=True, epochs=30, lr=0.5, mixup=0.0, cutmix=0.0, augmentation="none", ema_decay=0.0)
    losses = losses_of(made)
    state = made.network.state_dict()
    assert all(state[name].equal(value) for name, value in loaded.encoder.state_dict().items())
    assert losses[-1] < losses[0] - 0.2
    assert not made.network.training


def test_drop_path_is_that_of_the_option(tuner) -> None:
    assert tuner(drop_path=0.3).network.blocks[-1].drop_path1.drop_prob == pytest.approx(0.3)


def test_a_network_without_stochastic_depth_says_so() -> None:
    start = resolve_encoder("timm:dla46_c", pretrained=False)
    with pytest.raises(UserError, match=r"drop_path = 0\.1: dla46_c has no stochastic depth; give 0"):
        start.classifier(2, drop_path=0.1)


def test_the_new_head_depends_on_the_seed_alone(loaded: LoadedEncoder) -> None:
    first, again, other = (loaded.classifier(5, seed=seed).state_dict() for seed in (1, 1, 2))
    assert first["head.weight"].equal(again["head.weight"])
    assert not first["head.weight"].equal(other["head.weight"])
    assert 0.015 < float(first["head.weight"].std()) < 0.025
    assert all(first[name].equal(value) for name, value in loaded.encoder.state_dict().items())


def test_tune_learns_and_leaves_random_state_and_encoder_alone(loaded, spec, make_striped) -> None:
    before = {name: value.clone() for name, value in loaded.encoder.state_dict().items()}
    train, test = make_striped(40), make_striped(20, "test")
    options = config(epochs=40, lr=0.2, layer_decay=1.0, mixup=0.0, cutmix=0.0, augmentation="none", drop_path=0.0)
    state = torch.get_rng_state()
    logits = tune(loaded, train, test, spec, options, **CPU)
    assert state.equal(torch.get_rng_state())
    assert logits.shape == (20, 2)
    assert (logits.argmax(dim=1) == test.labels).float().mean() > 0.9
    assert all(before[name].equal(value) for name, value in loaded.encoder.state_dict().items())


def test_a_loss_that_is_not_finite_ends_it(loaded, spec, make_striped) -> None:
    with pytest.raises(RunError, match=r"the loss of step \d is not finite; nothing was saved after it\. Lower lr"):
        tune(loaded, make_striped(20), make_striped(20, "test"), spec, config(lr=1e30, warmup_lr=1e30), **CPU)


def test_logits_that_are_not_finite_are_no_result(tuner, make_striped) -> None:
    made, test = tuner(ema_decay=0.9), make_striped(20, "test")
    with torch.no_grad():
        made.ema.module.get_classifier().bias.fill_(torch.inf)
    assert made.logits(test).features.isfinite().all()
    with pytest.raises(RunError, match=r"logits of the moving average are not finite for 20 of 20 test images: begin"):
        made.logits(test, ema=True)
    with torch.no_grad():
        made.network.get_classifier().bias[0] = torch.nan
    with pytest.raises(RunError, match=r"logits of the trained network are not finite"):
        made.logits(test)


def test_bf16_trains_too(loaded, spec, make_striped) -> None:
    device = {"device": torch.device("cpu"), "precision": "bf16-mixed"}
    made = Tuner(loaded, make_striped(20), spec, config(), **device)
    assert all(torch.isfinite(loss) for loss in losses_of(made))
    assert {value.dtype for value in made.network.state_dict().values()} == {torch.float32}


def test_another_image_size_than_the_trained_one_is_trained_on(encoder, spec, make_striped) -> None:
    larger = dataclasses.replace(spec, image_size=(24, 24))
    made = Tuner(LoadedEncoder(create_vit(spec), spec, "one"), make_striped(20), larger, config(), **CPU)
    assert len(losses_of(made)) == 6
    assert made.logits(make_striped(20, "test")).features.shape == (20, 2)

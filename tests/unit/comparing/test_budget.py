"""Settings and their epochs: what is combined, and what makes a budget equal."""

from __future__ import annotations

from typing import Any

import pytest

from patchmix.comparing.budget import Cost, plan
from patchmix.comparing.settings import Setting, differing, make_settings, replaced
from patchmix.config import Config, OptimConfig
from patchmix.errors import UserError

BASE = Config(optim=OptimConfig(epochs=40, warmup_epochs=12, batch_size=128))


def settings(*methods: str, **more: Any) -> tuple[Setting, ...]:
    return make_settings(BASE, methods, more.get("variants", {}), more.get("vary", {}))


def costs(**units: float) -> dict[str, Cost]:
    return {name.replace("_", "-"): Cost(78, each, 128) for name, each in units.items()}


def test_equal_encoder_passes_give_the_cheaper_method_more_epochs() -> None:
    first, second = plan(settings("patchmix", "moco-v3"), costs(patchmix=8, moco_v3=6), "encoder-passes")
    assert (first.epochs, second.epochs) == (40, 53)  # 40 · 8 / 6 = 53.3
    assert first.config == BASE
    assert second.config.optim.warmup_epochs == 15.9  # 12 · 53 / 40: the same share of the run
    assert first.encoder_passes == 40 * 78 * 8 * 128
    assert second.encoder_passes == 53 * 78 * 6 * 128
    assert abs(second.encoder_passes / first.encoder_passes - 1) < 0.5 / 53
    assert second.config.method.name == "moco-v3"
    assert second.steps == 53 * 78


def test_the_real_passes_are_those_of_whole_epochs_and_never_none() -> None:
    short = replaced(BASE, {"optim.epochs": 1})
    found = make_settings(short, ("patchmix", "moco-v3"), {}, {})
    _, dear = plan(found, costs(patchmix=2, moco_v3=100), "encoder-passes")
    assert dear.epochs == 1
    assert dear.encoder_passes == 78 * 100 * 128


def test_another_batch_has_another_number_of_steps_and_the_same_passes() -> None:
    found = settings("patchmix", vary={"optim.batch_size": (128, 64)})
    prices = {found[0].name: Cost(78, 8, 128), found[1].name: Cost(156, 8, 64)}
    first, second = plan(found, prices, "encoder-passes")
    assert first.epochs == second.epochs == 40
    assert first.encoder_passes == second.encoder_passes


def test_budget_epochs_leaves_epochs_as_they_are() -> None:
    found = settings("patchmix", variants={"long": {"optim.epochs": 80}})
    first, second = plan(found, costs(patchmix=8, long=8), "epochs")
    assert (first.epochs, second.epochs) == (40, 80)
    assert second.config.optim.warmup_epochs == 12
    with pytest.raises(UserError, match=r"long: optim.epochs is what --budget encoder-passes sets"):
        plan(found, costs(patchmix=8, long=8), "encoder-passes")


def test_budget_seconds_fills_the_time_with_epochs() -> None:
    found = settings("patchmix", "moco-v3")
    first, second = plan(
        found,
        costs(patchmix=8, moco_v3=6),
        "seconds",
        seconds_per_run=430.0,
        seconds_per_step={"patchmix": 0.42, "moco-v3": 0.315},
    )
    assert (first.epochs, second.epochs) == (13, 18)  # 430 / (0.42 · 78) = 13.1, 430 / (0.315 · 78) = 17.5
    assert first.config.optim.warmup_epochs == pytest.approx(12 * 13 / 40)


def test_settings_are_methods_then_variants_with_every_combination_of_values() -> None:
    found = settings(
        "patchmix",
        variants={"weak": {"method.smoothing": 0.1}},
        vary={"method.num_mix": (2, 3), "model.position_std": (None, 1.5)},
    )
    assert [each.name for each in found] == [
        "patchmix-num_mix=2-position_std=null",
        "patchmix-num_mix=2-position_std=1.5",
        "patchmix-num_mix=3-position_std=null",
        "patchmix-num_mix=3-position_std=1.5",
        "weak-num_mix=2-position_std=null",
        "weak-num_mix=2-position_std=1.5",
        "weak-num_mix=3-position_std=null",
        "weak-num_mix=3-position_std=1.5",
    ]
    assert found[5].config.method.smoothing == 0.1
    assert found[5].varied == {"method.num_mix": 2, "model.position_std": 1.5}
    assert found[5].given == {"method.smoothing": 0.1, "method.num_mix": 2, "model.position_std": 1.5}


def test_names_are_names_of_folders_and_tell_settings_apart() -> None:
    found = settings("patchmix", vary={"views.global_scale": ((0.2, 1.0), (0.4, 1.0))})
    assert [each.name for each in found] == ["patchmix-global_scale=0.2_1.0", "patchmix-global_scale=0.4_1.0"]
    both = settings("patchmix", vary={"model.name": ("vit_tiny",), "method.smoothing": (0.0,)})
    assert both[0].name == "patchmix-name=vit_tiny-smoothing=0.0"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"variants": {"patchmix": {"method.num_mix": 1}}}, "has the name of a method that is compared too"),
        ({"variants": {"a": {"method.num_mix": 1}}, "vary": {"method.num_mix": (1, 2)}}, "is what a sets"),
        ({"vary": {"method.name": ("patchmix", "moco-v3")}}, "is what patchmix sets"),
        ({"vary": {"method.num_mix": (2, 0)}}, r"^patchmix-num_mix=0: method.num_mix = 0 is not accepted"),
        ({"variants": {"a": {"data.mean": (0.5,)}}}, r"^a: data.mean .* it needs data.std"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings("patchmix", **more)


def test_bookkeeping_is_no_difference() -> None:
    other = {"output": "elsewhere", "run.num_threads": 1, "data.num_workers": 3, "run.tensorboard": False}
    assert differing(BASE, replaced(BASE, other)) == []
    assert differing(BASE, replaced(BASE, {"optim.lr": 0.1, "run.precision": "32-true"})) == [
        "optim.lr 0.0005 → 0.1",
        "run.precision 'auto' → '32-true'",
    ]

"""Options: bounds on construction, and how values are read."""

import dataclasses
import runpy
from pathlib import Path

import pytest

from patchmix.config import (
    Config,
    DataConfig,
    FewshotConfig,
    KnnConfig,
    MethodConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    ViewsConfig,
    to_dict,
)
from patchmix.config.options import Option, all_options, build, coerce, flatten, nearest
from patchmix.errors import UserError

CONFIGS = [Config, KnnConfig, FewshotConfig]


@pytest.mark.parametrize("config", CONFIGS)
def test_every_option_has_help_and_words_for_what_it_accepts(config):
    for option in all_options(config).values():
        assert option.help
        assert option.describe()


@pytest.mark.parametrize("config", CONFIGS)
def test_every_field_is_an_option_or_a_section(config):
    nested = to_dict(config(checkpoint="x") if config is not Config else config())
    names = {
        f"{key}.{inner}" if isinstance(value, dict) else key
        for key, value in nested.items()
        for inner in (value if isinstance(value, dict) else [""])
    }
    assert names == set(all_options(config))


@pytest.mark.parametrize("config", CONFIGS)
def test_every_default_is_accepted_by_its_own_option(config):
    for option in all_options(config).values():
        assert coerce(option, option.default) == option.default


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DataConfig(limit=0), "data.limit = 0 is not accepted: a whole number above 0, or null"),
        (lambda: DataConfig(mean=(0.5,)), r"data.mean = \[0.5\] is not accepted: it needs data.std beside it"),
        (lambda: DataConfig(mean=(0.5,), std=(0.0,)), "data.std"),
        (
            lambda: ModelConfig(drop_path=1.0),
            "model.drop_path = 1 .* from 0 to below 1",
        ),
        (lambda: ModelConfig(width=64, num_heads=3), "model.num_heads = 3 .* divisor of model.width = 64"),
        (lambda: MethodConfig(num_mix=0), "method.num_mix = 0"),
        (lambda: MethodConfig(momentum=1.5), "method.momentum = 1.5 .* from 0 to 1, or null"),
        (
            lambda: ViewsConfig(global_scale=(0.5, 0.1)),
            "views.global_scale .* 0 < low <= high",
        ),
        (lambda: ViewsConfig(global_scale=(0.5, 1.2)), "the whole image"),
        (lambda: ViewsConfig(blur=(0.1, 0.2, 2.0)), "views.blur"),
        (lambda: ViewsConfig(hue=0.6), "views.hue = 0.6 is not accepted: a number from 0 to 0.5"),
        (lambda: OptimConfig(lr=float("nan")), "optim.lr = nan"),
        (lambda: OptimConfig(lr=float("inf")), "optim.lr = inf"),
        (lambda: OptimConfig(warmup_epochs=-1), "optim.warmup_epochs = -1"),
        (lambda: RunConfig(keep_checkpoints=0), "run.keep_checkpoints = 0"),
        (lambda: Config(seed=2**32), "seed = 4294967296"),
        (lambda: Config(run=RunConfig(num_devices=3)), "optim.batch_size = 512 .* processes, 3"),
        (lambda: Config(method=MethodConfig(mix_group=5)), "method.mix_group = 5 .* 512"),
        (lambda: KnnConfig(checkpoint=""), "checkpoint"),
        (lambda: KnnConfig(checkpoint="x", k=()), "k = "),
        (lambda: FewshotConfig(checkpoint="x", draws=0), "draws = 0"),
    ],
)
def test_a_value_out_of_bounds_is_named_with_what_is_accepted(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_digit_views_may_zoom_out():
    assert ViewsConfig(kind="digits", global_scale=(0.8, 1.25)).global_scale == (0.8, 1.25)


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().seed = 1


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("optim.lr", "5e-4", 5e-4),  # which plain YAML reads as text
        ("optim.lr", 1, 1.0),
        ("views.global_scale", [0.2, 1], (0.2, 1.0)),
        ("views.global_scale", "[0.2, 1]", (0.2, 1.0)),
        ("data.limit", "null", None),
        ("data.limit", None, None),
        ("run.tensorboard", "false", False),
        ("output", "007", "007"),
        ("output", Path("runs/a"), "runs/a"),
        ("data.channels", "3", 3),
    ],
)
def test_a_value_is_read_in_its_options_type(name, value, expected):
    result = coerce(all_options(Config)[name], value)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", None),
        ("seed", "null"),
        ("seed", True),
        ("seed", 1.5),
        ("optim.lr", "fast"),
        ("optim.epochs", [3]),
        ("views.ratio", 1),
        ("views.ratio", [1, 2, 3]),
        ("data.name", "cifar11"),
        ("run.tensorboard", 3),
        ("data.limit", {"a": 1}),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_what_is_accepted(name, value):
    option = all_options(Config)[name]
    with pytest.raises(UserError) as caught:
        coerce(option, value)
    assert str(caught.value).startswith(f"{name} = ")
    assert str(caught.value).endswith(option.describe())


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("epochs", "optim.epochs"),
        ("lr", "optim.lr"),
        ("batch-size", "optim.batch_size"),
        ("optim.epoch", "optim.epochs"),
        ("optimizer.lr", "optim.lr"),
        ("data.nmae", "data.name"),
        ("ouput", "output"),
    ],
)
def test_a_wrong_name_finds_the_right_one(wrong, right):
    assert nearest(wrong, all_options(Config)) == f"; did you mean {right}?"


def test_a_name_like_no_other_gets_no_suggestion():
    assert nearest("xyzzy", all_options(Config)) == ""


def test_nested_and_dotted_keys_are_the_same():
    dotted = {"seed": 1, "data.limit": 3, "data.name": "cifar10"}
    assert flatten({"seed": 1, "data": {"limit": 3, "name": "cifar10"}}, Config) == dotted
    assert flatten(dotted, Config) == dotted


def test_an_empty_section_is_no_mistake():
    assert flatten({"data": None}, Config) == {}


@pytest.mark.parametrize("given", [{"data": 3}, {"optim": {"epoch": 1}}, {"optimizer": {"lr": 1}}, {1: 2}])
def test_a_key_that_is_no_option_is_refused(given):
    with pytest.raises(UserError):
        flatten(given, Config)


def test_a_config_survives_being_written_and_read():
    config = Config(data=DataConfig(name="cifar10", mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0)), seed=3)
    options = all_options(Config)
    flat = {name: coerce(options[name], value) for name, value in flatten(to_dict(config), Config).items()}
    assert build(Config, flat) == config


def test_a_type_is_described_in_words():
    assert Option("k", tuple[int, ...], (1,), "").describe() == "a list of whole numbers"
    assert Option("k", tuple[float, float] | None, None, "").describe() == "2 numbers, or null"


def test_the_page_of_options_is_up_to_date():
    script = Path(__file__).parents[2] / "docs" / "make_configuration.py"
    module = runpy.run_path(str(script))
    assert module["PAGE"].read_text(encoding="utf-8") == module["page"](), "run `make docs`"

"""Recipes and config files, and how their layers are put together."""

import pytest

from patchmix.config import Config, FewshotConfig, KnnConfig, to_dict
from patchmix.errors import UserError
from patchmix.recipes import dump, list_recipes, load_file, load_recipe, resolve, resolve_evaluation

NAMES = [recipe.name for recipe in list_recipes()]


@pytest.fixture
def run(tmp_path):
    """A directory with the config of a demo run on a limited set, as pre-training writes it."""
    directory = tmp_path / "run"
    (directory / "checkpoints").mkdir(parents=True)
    config = resolve("demo", overrides={"output": directory, "data.limit": 500})
    (directory / "config.yaml").write_text(dump(config), encoding="utf-8")
    return directory


def test_the_recipes_are_listed_with_their_summaries():
    assert {"cifar10-cpu", "cifar10-vit-tiny", "demo", "folder"} <= set(NAMES)
    for recipe in list_recipes():
        assert recipe.what
        assert recipe.data
        assert recipe.time


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_a_config_and_says_what_to_expect(name):
    config = resolve(name)
    assert config.output == f"runs/{name}"
    header = next(recipe.text for recipe in list_recipes() if recipe.name == name).split("\ndata:")[0]
    for word in ("# Command ", "# Hardware ", "# Time ", "# Expected "):
        assert word in header


def test_later_layers_win(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("optim:\n  epochs: 7\n  batch_size: 32\n", encoding="utf-8")
    config = resolve("demo", file, {"optim.batch_size": 16, "data": {"limit": 100}})
    assert (config.optim.epochs, config.optim.batch_size, config.data.limit) == (7, 16, 100)
    assert config.model.patch_size == 7  # the recipe's
    assert config.optim.beta2 == 0.999  # the default


def test_null_takes_an_option_back():
    assert resolve("cifar10-cpu", overrides={"data.limit": "null"}).data.limit is None


def test_what_is_written_is_read_back_equal(tmp_path):
    config = resolve("folder", overrides={"data.root": "photos: 1", "data.mean": [0.5], "data.std": [1 / 3]})
    file = tmp_path / "config.yaml"
    file.write_text(dump(config), encoding="utf-8")
    assert resolve(config_file=file) == config
    assert "global_scale: [0.2, 1.0]" in dump(config)


def test_a_recipe_is_nested_dictionaries():
    assert load_recipe("demo")["data"]["name"] == "mnist5k"


def test_an_unknown_recipe_is_answered_with_the_nearest_and_the_list():
    with pytest.raises(UserError, match=r"did you mean demo\? .*cifar10-cpu, .*cifar10-vit-tiny, .*demo"):
        load_recipe("dmo")


def test_a_file_given_as_recipe_is_pointed_to_config(tmp_path):
    with pytest.raises(UserError, match="a file is given by --config"):
        resolve(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim:\n  epochs: [1\n", "mine.yaml is not valid YAML: line 3"),
        ("optim:\n\tepochs: 1\n", "line 2"),
        ("optim:\n  epochs: 1\n  epochs: 2\n", "line 3: epochs is there twice"),
        ("- a\n- b\n", "not a config"),
        ("hello", "not a config"),
        ("seed: 2024-13-45", "not valid YAML"),
        ("optim:\n  epoch: 3\n", "mine.yaml: there is no option optim.epoch; did you mean optim.epochs"),
        ("optimizer:\n  lr: 3\n", "mine.yaml: there is no option optimizer; did you mean optim"),
        ("data:\n  limit: many\n", "mine.yaml: data.limit = 'many' is not accepted: a whole number"),
        ("data: cifar10\n", "mine.yaml: data = 'cifar10' .* section"),
        ("seed: null\n", "seed = null is not accepted"),
    ],
)
def test_a_mistake_in_a_file_is_located(tmp_path, text, message):
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        resolve("demo", file)


def test_an_empty_file_changes_nothing(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("# nothing\n", encoding="utf-8")
    assert resolve("demo", file) == resolve("demo")


def test_an_absent_file_a_directory_and_bytes_are_told_apart(tmp_path, run):
    with pytest.raises(UserError, match="there is no config file"):
        load_file(tmp_path / "absent.yaml")
    with pytest.raises(UserError, match=r"is a directory; did you mean .*config\.yaml"):
        load_file(run)
    (tmp_path / "image.yaml").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(UserError, match="not text in UTF-8"):
        load_file(tmp_path / "image.yaml")


def test_nothing_to_train_on_is_said():
    for overrides in ({}, {"output": "x"}):
        with pytest.raises(UserError, match="give --recipe NAME"):
            resolve(overrides=overrides)


def test_resume_alone_takes_the_runs_own_config(run):
    config = resolve(overrides={"output": run, "optim.epochs": 200}, resume=True)
    assert (config.data.limit, config.optim.epochs, config.model.patch_size) == (500, 200, 7)


def test_resume_where_no_run_is_says_so(tmp_path):
    with pytest.raises(UserError, match="nothing to resume: "):
        resolve(overrides={"output": tmp_path}, resume=True)
    with pytest.raises(UserError, match="give --output RUN"):
        resolve(resume=True)


@pytest.mark.parametrize("config", [KnnConfig, FewshotConfig])
def test_an_evaluation_takes_the_runs_data(run, config):
    file = run / "checkpoints" / "step-00000001.safetensors"
    file.touch()
    for checkpoint in (run, file):
        data = resolve_evaluation(config, {"checkpoint": checkpoint, "data.num_workers": 0}).data
        assert (data.name, data.limit, data.num_workers) == ("mnist5k", 500, 0)


def test_other_data_take_nothing_from_the_run(run):
    data = resolve_evaluation(KnnConfig, {"checkpoint": run, "data": {"name": "cifar10"}}).data
    assert (data.name, data.limit) == ("cifar10", None)


def test_an_evaluation_without_data_or_checkpoint_says_what_to_give(tmp_path):
    with pytest.raises(UserError, match=r"give --data\.name"):
        resolve_evaluation(KnnConfig, {"checkpoint": "timm:vit_tiny_patch16_224"})
    with pytest.raises(UserError, match="give --checkpoint"):
        resolve_evaluation(KnnConfig, {"data.name": "cifar10"})
    with pytest.raises(UserError, match="there is no checkpoint"):
        resolve_evaluation(KnnConfig, {"checkpoint": str(tmp_path / "absent"), "data.name": "cifar10"})


def test_a_recipe_holds_nothing_but_options():
    for name in NAMES:
        for section, options in load_recipe(name).items():
            assert set(options) <= set(to_dict(Config())[section])

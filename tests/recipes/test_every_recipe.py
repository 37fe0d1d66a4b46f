"""Every recipe that comes with the package: its header is whole, its commands parse, and it trains."""

from __future__ import annotations

import math
import re
import zipfile
from pathlib import Path

import pytest
from tests.recipes.paper import COLUMNS
from tests.runs import result_of

from patchmix import checkpoint, cli
from patchmix.config import Config
from patchmix.metrics_file import read_metrics
from patchmix.parsing import parse
from patchmix.recipes import Recipe, list_recipes, resolve

RECIPES = {recipe.name: recipe for recipe in list_recipes()}
PAPERS = [*COLUMNS, "imagenette-vit-small"]
SMALLER = {
    "model.depth": 1,
    "model.projector_width": 32,
    "model.projection_size": 16,
    "optim.batch_size": 4,
    "data.limit": 8,
    "data.num_workers": 0,
    "max_steps": 2,
    "run.device": "cpu",
    "run.num_threads": 1,
    "run.checkpoint_every_steps": 1,
    "run.eval_every_epochs": 0,
    "run.tensorboard": "false",
}


def header(recipe: Recipe) -> dict[str, str]:
    """The parts of a header by their first words: {"Command": "patchmix pretrain …\n8 GPUs: …"}."""
    parts: dict[str, str] = {}
    word = ""
    for line in recipe.text.splitlines():
        if not line.startswith("#"):
            break
        if found := re.match(r"# ([A-Z][a-z]+) {2,}(.*)", line):
            word = found[1]
            parts[word] = found[2]
        elif word and line.startswith("#   "):
            parts[word] += "\n" + line[1:].strip()
    return parts


def commands(recipe: Recipe) -> list[list[str]]:
    """Every command line of ours in a header, without the program's name."""
    found = re.findall(r"patchmix ((?:pretrain|knn|fewshot)\b[^\n;,()]*)", header(recipe)["Command"])
    return [line.split() for line in found]


def test_every_published_column_has_a_recipe() -> None:
    assert set(PAPERS) <= set(RECIPES)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_header_says_what_it_takes_and_what_to_expect(recipe: Recipe) -> None:
    parts = header(recipe)
    assert {"Command", "Hardware", "Time", "Expected"} <= parts.keys()
    assert all(parts.values())
    if recipe.name in PAPERS:
        assert {"Memory", "Source"} <= parts.keys()
        assert "optim.batch_size" in parts["Memory"]  # what to do with less memory
    assert max(map(len, recipe.text.splitlines())) <= 120


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_commands_in_a_header_are_accepted(recipe: Recipe) -> None:
    lines = commands(recipe)
    assert any(line[0] == "pretrain" for line in lines)
    for line in lines:
        name, given = parse(cli.COMMANDS, line)
        if name == "pretrain":
            config = resolve(given.pop("recipe", recipe.name), None, given)
            assert isinstance(config, Config)
    if recipe.name in PAPERS:
        devices = [parse(cli.COMMANDS, line)[1].get("run.num_devices", "1") for line in lines if line[0] == "pretrain"]
        assert devices == ["1", "8"]


def test_the_list_fits_80_columns_one_line_a_recipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines[1 : 1 + len(RECIPES)]] == list(RECIPES)
    assert "* calculated, not measured" in "\n".join(lines)


@pytest.fixture(scope="module")
def roots(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path | None]:
    """Real photographs in the layout of each data set: CIFAR's classes, COCO's pictures as two classes."""
    root = tmp_path_factory.mktemp("data")
    with zipfile.ZipFile(shared_data / "cifar10-images.zip") as packed:
        names = [name for name in packed.namelist() if re.search(r"/(cat|ship)/000[1-8]\.jpg$", name)]
        packed.extractall(root, names)
    with zipfile.ZipFile(shared_data / "coco-mini.zip") as packed:
        pictures = [name for name in packed.namelist() if name.endswith(".jpg")]
        for number, name in enumerate(pictures[:16]):
            split, wnid = ("train", "val")[number // 12], ("n01440764", "n02102040")[number % 2]
            folder = root / "imagenette2-320" / split / wnid
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{wnid}_{number}.JPEG").write_bytes(packed.read(name))
    cifar, photos = root / "cifar10", root / "imagenette2-320"
    assert any((cifar / "train").rglob("*.jpg"))
    return {
        "mnist5k": None,
        "cifar10": cifar,
        "cifar100": cifar,
        "imagenet": photos,
        "folder": photos,
        "imagenette": root,
    }


# Width 768 is kept, so ViT-B's checkpoints are large.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name.endswith("-base") else name for name in RECIPES]
)
def test_a_recipe_takes_two_steps_on_real_images(name: str, roots: dict[str, Path | None], tmp_path: Path) -> None:
    data = resolve(name, overrides={"data.root": "DIR"}).data.name
    root, output = roots[data], tmp_path / "run"
    options = SMALLER | ({"data.root": root} if root else {})
    words = [f"--{option}={value}" for option, value in options.items()]
    assert cli.main(["pretrain", "--recipe", name, "--output", str(output), *words]) == 0

    steps = [record for record in read_metrics(output / "metrics.jsonl")[0] if "loss" in record]
    assert [record["step"] for record in steps] == [1, 2]
    assert all(math.isfinite(record["loss"]) and record["grad_norm"] > 0 for record in steps)
    config = resolve(config_file=output / "config.yaml")
    assert all(("loss_local" in record) == (config.views.num_local_crops > 0) for record in steps)
    # The first step's learning rate is 0, so its checkpoint holds the weights the run began with.
    newest, _ = result_of(output)
    before = checkpoint.read(checkpoint.checkpoint_path(output, 1)).model_tensors()
    moved = {part for part, value in newest.model_tensors().items() if not value.equal(before[part])}
    trained = [part for part in before if part.endswith("weight") and "momentum" not in part and before[part].ndim > 1]
    assert set(trained) <= moved

"""The page shows views, and what mixing 2 and 3 of them looks like, with the owner of every patch."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import section, words
from PIL import Image
from run_directories import config, write_run

from patchmix.config import ViewsConfig
from patchmix.randomness import draw_plan
from patchmix.reporting import views
from patchmix.reporting.run_files import read_run


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for number in range(10):
        Image.fromarray(generator.integers(0, 256, (28, 28), dtype=np.uint8)).save(folder / f"{number}.png")
    return str(folder)


def rows_of(run: Path) -> list[dict[str, object]]:
    context = views.section(read_run(run)).context
    assert context["problem"] is None
    return context["rows"]


def pixels(row: dict[str, object]) -> np.ndarray:
    content = base64.b64decode(str(row["source"]).partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


@pytest.mark.parametrize(
    ("own", "shown"), [(1, ["M = 2", "M = 3"]), (2, ["M = 2", "M = 3"]), (4, ["M = 2", "M = 3", "M = 4"])]
)
def test_mixing_of_two_three_and_the_runs_own_number_is_shown(
    tmp_path: Path, images: str, own: int, shown: list[str]
) -> None:
    rows = rows_of(write_run(tmp_path / "demo", config(images, num_mix=own)))
    assert [str(row["title"]).removeprefix("view 1, ") for row in rows if "M =" in str(row["title"])] == shown
    assert [row["title"] for row in rows if row["own"]] == ([f"view 1, M = {own}"] if own > 1 else [])


@pytest.mark.parametrize("num_mix", [2, 3])
def test_every_patch_has_the_colour_of_the_image_it_comes_from(tmp_path: Path, images: str, num_mix: int) -> None:
    rows = rows_of(write_run(tmp_path / "demo", config(images)))
    titles = [row["title"] for row in rows]
    owners = pixels(rows[titles.index(f"view 1, M = {num_mix}") + 1])
    sources = draw_plan((28, 28), num_mix, 7, seed=0, step=1, view=0).sources(views.NUM_IMAGES)
    patch = views.TILE // 4
    for image, row in enumerate(sources.tolist()):
        for position, owner in enumerate(row):
            y, x = position // 4 * patch + patch // 2, position % 4 * patch + patch // 2
            assert tuple(owners[y, image * (views.TILE + views.GAP) + x]) == views.OWNERS[owner]


def test_more_images_than_patches_are_said_not_to_go(tmp_path: Path, images: str) -> None:
    settings = config(images, num_mix=1, mix_size=28)
    notes = [row["note"] for row in rows_of(write_run(tmp_path / "demo", settings)) if row["source"] is None]
    assert notes == [f"{number} images do not go into a view of 1 mixing patches" for number in (2, 3)]


def test_views_are_shown_where_mixing_does_not_fit_them(tmp_path: Path, images: str) -> None:
    rows = rows_of(write_run(tmp_path / "demo", config(images, mix_size=10)))
    assert [row["title"] for row in rows] == ["image", "view 1", "view 2", "mixed views"]
    assert "method.mix_size = 10" in str(rows[-1]["note"])


def test_local_crops_are_shown_in_proportion_and_mixed(tmp_path: Path, images: str) -> None:
    settings = config(images, views=ViewsConfig(kind="digits", num_local_crops=3, local_size=14))
    rows = {row["title"]: row for row in rows_of(write_run(tmp_path / "demo", settings))}
    assert [title for title in rows if "local" in str(title)] == [
        "local crop 1",
        "local crop 1, mixed",
        "local crop 2",
    ]
    assert pixels(rows["local crop 1"]).shape[0] == views.TILE // 2


def test_few_images_and_colour_do(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(2):
        pixels_ = np.random.default_rng(number).integers(0, 256, (40, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels_).save(folder / f"{number}.png")
    rows = rows_of(write_run(tmp_path / "demo", config(str(folder), channels=3)))
    assert {row["count"] for row in rows} == {2}
    assert words(str(rows[0]["alt"])) == "image of 2 training images: as it is in the data"
    assert re.match("data:image/webp;base64,", str(rows[0]["source"]))


@pytest.mark.parametrize(
    ("method", "titles"),
    [
        ({"name": "moco-v3"}, []),
        ({"name": "patchmix", "mix_to_origin_weight": 0.0, "mix_to_mix_weight": 0.0}, []),
        ({"mixers": ("mixup",)}, ["view 1, M = 2"]),
        ({"mixers": ("cutmix",)}, ["view 1, M = 2"]),
        ({"permutations": "image"}, ["view 1, M = 2", "view 1, M = 3"]),
    ],
)
def test_what_is_shown_is_what_the_method_mixes(
    tmp_path: Path, images: str, method: dict[str, Any], titles: list[str]
) -> None:
    run = read_run(write_run(tmp_path / "demo", config(images, **method)))
    assert [row["title"] for row in views.section(run).context["rows"] if "M =" in row["title"]] == titles
    page = words(section(views.section, tmp_path / "demo"))
    assert ("does not mix" in page) == (not titles)

"""Neighbours are those of the newest checkpoint's features; what is missing is said and the page is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pages import section, words
from PIL import Image
from tests.runs import small_config

from patchmix import checkpoint
from patchmix.config import Config
from patchmix.data.datasets import open_dataset
from patchmix.evaluation.features import extract
from patchmix.models.loading import resolve_encoder
from patchmix.pretraining import pretrain
from patchmix.recipes import dump
from patchmix.reporting import neighbours, retrieval
from patchmix.reporting.retrieval import retrieve
from patchmix.reporting.run_files import read_run


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on 96 digits."""
    output = tmp_path_factory.mktemp("digits") / "run"
    pretrain(small_config(output, **{"optim.epochs": 2}))
    return output


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on 20 files without classes, one of them unreadable, two of them equal."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(20):
        pixels = torch.randint(0, 256, (28, 28, 3), generator=torch.Generator().manual_seed(number))
        Image.fromarray(pixels.to(torch.uint8).numpy()).save(folder / f"{number:02}.png")
    shutil.copyfile(folder / "01.png", folder / "02.png")
    (folder / "03.png").write_bytes((folder / "03.png").read_bytes()[:300])
    output = tmp_path_factory.mktemp("run") / "run"
    data = {"data.name": "folder", "data.root": str(folder), "data.image_size": 28, "data.limit": None}
    pretrain(small_config(output, **data, **{"optim.batch_size": 8, "optim.epochs": 1}))
    return output


def copied(run: Path, to: Path) -> Path:
    return Path(shutil.copytree(run, to / "run"))


def with_data(run: Path, **data: object) -> None:
    """Change the run's config.yaml, as one who moves the data does."""
    config = read_run(run).config
    changed = Config(**{**vars(config), "data": type(config.data)(**{**vars(config.data), **data})})
    (run / "config.yaml").write_text(dump(changed))


def test_are_the_most_similar_training_images_of_test_images(digits: Path) -> None:
    run = read_run(digits)
    found = retrieve(run)
    loaded, train, test = resolve_encoder(digits), run.training_images, open_dataset(run.config.data, "test")
    images = F.normalize(extract(loaded.encoder, train, loaded.spec).features, dim=1)
    asked = F.normalize(extract(loaded.encoder, test, loaded.spec).features, dim=1)
    pixels = torch.stack([train.read(index).float().flatten() for index in range(len(train))])
    assert (found.split, found.num_looked, found.num_images) == ("test", 96, 96)
    assert len(found.found) == retrieval.NUM_QUERIES
    assert len({each.query.label for each in found.found}) == retrieval.NUM_QUERIES  # of ten classes
    for each in found.found:
        index = int(each.query.path.rsplit("/", 1)[1])
        similarities, places = (images @ asked[index]).topk(retrieval.NUM_NEIGHBOURS)
        assert [near.similarity for near in each.by_features] == pytest.approx(similarities.tolist(), abs=1e-5)
        assert {near.path for near in each.by_features} == {train.path(int(place)) for place in places}
        query = test.read(index).float().flatten() - pixels.mean(0)
        nearest = F.cosine_similarity(pixels - pixels.mean(0), query[None]).topk(retrieval.NUM_NEIGHBOURS)
        assert [near.similarity for near in each.by_pixels] == pytest.approx(nearest.values.tolist(), abs=1e-4)


def test_have_their_class_said_in_words_and_marked_by_a_shape(digits: Path) -> None:
    found = retrieve(read_run(digits))
    same = [near.label == each.query.label for each in found.found for near in each.by_features]
    text = section(neighbours.section, digits)
    shown = words(text)
    assert f"{sum(same)} of {len(same)} neighbours have the class of their query" in shown
    by_pixels = [near.label == each.query.label for each in found.found for near in each.by_pixels]
    assert shown.count("✓ 0.") + shown.count("✓ 1.") == sum(same) + sum(by_pixels)
    assert text.count(", that of the query, similarity") == sum(same) + sum(by_pixels)
    assert text.count(", another, similarity") == 2 * len(same) - sum(same) - sum(by_pixels)
    assert "all 96 training images" in shown


def test_without_test_images_are_those_of_training_images_but_never_the_image_itself(photos: Path) -> None:
    found = retrieve(read_run(photos))
    assert (found.split, found.num_looked, found.num_unreadable) == ("train", 19, 1)
    for each in found.found:
        assert each.query.label is None
        assert each.query.path not in [near.path for near in (*each.by_features, *each.by_pixels)]
    twins = [each for each in found.found if Path(each.query.path).name in ("01.png", "02.png")]
    assert twins
    assert all(each.by_features[0].similarity == pytest.approx(1) for each in twins)
    shown = words(section(neighbours.section, photos))
    assert "all 19 training images that can be read" in shown
    assert "no classes to compare" in shown


def test_are_looked_for_among_a_part_when_the_time_is_up(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "CHUNKS", (16, 16))
    assert retrieve(read_run(digits), seconds=0).num_looked == 16
    monkeypatch.setattr(retrieval, "MOST_IMAGES", 40)
    assert retrieve(read_run(digits)).num_looked == 40
    assert "the most similar of 40 training images, a random part of 96" in words(section(neighbours.section, digits))


def test_of_a_damaged_checkpoint_are_those_of_the_whole_one_before(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(digits, tmp_path)
    newest, older = sorted((run / "checkpoints").iterdir(), reverse=True)
    newest.write_bytes(newest.read_bytes()[:-100])
    assert older.name in words(section(neighbours.section, run))
    assert newest.name in capsys.readouterr().err
    older.unlink()
    assert "No picture of neighbours:" in words(section(neighbours.section, run))
    assert "no whole checkpoint" in words(section(neighbours.section, run))


def test_of_data_that_is_gone_or_changed_are_said(photos: Path, tmp_path: Path) -> None:
    run = copied(photos, tmp_path)
    with_data(run, limit=12)
    shown = words(section(neighbours.section, run))
    assert "no longer those that the checkpoint was trained on" in shown
    assert "training images" in shown
    with_data(run, root=str(tmp_path / "gone"))
    assert "No picture of neighbours:" in words(section(neighbours.section, run))
    assert "gone does not exist" in words(section(neighbours.section, run))


def test_of_features_that_are_not_finite_are_not_shown(digits: Path, tmp_path: Path) -> None:
    run = copied(digits, tmp_path)
    found, _ = checkpoint.newest_whole(run)
    assert found is not None
    broken = {name: value * torch.nan for name, value in found.tensors.items()}
    checkpoint.write(found.path, broken, found.metadata)
    assert "not finite" in words(section(neighbours.section, run))

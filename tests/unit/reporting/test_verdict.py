"""The verdict says no more than the intervals allow; floors are entropies of the targets."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from PIL import Image
from run_directories import config, write_knn, write_run

from patchmix import targets
from patchmix.reporting import verdict
from patchmix.reporting.curves import floors
from patchmix.reporting.judgement import LEARNED, NOT_LEARNED, PARTLY, UNKNOWN, judge
from patchmix.reporting.next_steps import steps
from patchmix.reporting.run_files import read_run


@pytest.mark.parametrize(
    ("run", "untrained", "pixels", "level"),
    [
        (97.0, 60.0, 94.0, LEARNED),
        (95.0, 60.0, 94.0, PARTLY),  # intervals overlap
        (80.0, 60.0, 94.0, PARTLY),
        (61.0, 60.0, 50.0, NOT_LEARNED),
        (50.0, 60.0, 40.0, NOT_LEARNED),
    ],
)
def test_better_means_intervals_apart(tmp_path: Path, run: float, untrained: float, pixels: float, level: str) -> None:
    directory = write_run(tmp_path / "demo", config(None), steps=250, loss=3.0)
    write_knn(directory, run, untrained, pixels)
    assert judge(read_run(directory))[0] == level


def test_a_run_of_few_steps_is_not_said_to_have_failed(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "demo", config(None), steps=18)
    write_knn(directory, 61.0, 60.0, 50.0)
    assert judge(read_run(directory)) == (UNKNOWN, "Too early to say, after 18 steps: not shown to have learned yet.")


def test_without_baselines_or_results_there_is_no_verdict(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "demo", config(None))
    assert judge(read_run(directory))[0] == UNKNOWN
    (directory / "results").mkdir()
    (directory / "results" / "knn.json").write_text('{"metrics": {"top1_k20": 97.0}}')
    assert judge(read_run(directory))[0] == UNKNOWN


@pytest.mark.parametrize(
    ("num_steps", "share", "says"),
    [
        (10, 0.5, "Too early to say, after 10 steps"),
        (300, 0.95, "It hardly tells its training images apart"),
        (300, 0.5, "It tells its training images apart"),
    ],
)
def test_without_labels_a_run_is_judged_by_its_loss_and_not_more(
    tmp_path: Path, num_steps: int, share: float, says: str
) -> None:
    Image.new("L", (28, 28)).save(tmp_path / "image.png")
    directory = write_run(tmp_path / "demo", config(str(tmp_path)), steps=num_steps, loss=share * math.log(64))
    assert judge(read_run(directory)) == (UNKNOWN, f"{says}; there are no test labels to measure more.")


def test_a_loss_that_broke_is_trouble_and_its_run_is_not_to_go_on(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "demo", config(None), steps=12)
    with (directory / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "epoch": 2, "loss": "nan", "loss_origin_to_origin": "nan"}\n')
    run = read_run(directory)
    assert judge(run)[0] == NOT_LEARNED
    commands = [command for _, command in steps(run)]
    assert not [command for command in commands if "--resume" in command]
    assert "--optim.lr" in commands[0]
    because = verdict.section(run).context["because"]
    assert because
    assert "nan" not in " ".join(because)


def test_each_methods_losses_have_floors_with_and_without_crops() -> None:
    lean = floors(config(None, name="patchmix-lean"))
    assert lean["loss_mix_to_origin"] == pytest.approx(math.log(2))
    assert lean["loss_local_mix"] == pytest.approx(2 * math.log(2))
    assert floors(config(None, name="moco-v3")) == {"loss_origin_to_origin": 0, "loss_local": 0}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("num_mix", [1, 2, 3, 40])
def test_floors_are_the_entropies_of_the_targets(num_mix: int, smoothing: float) -> None:
    found = floors(config(None, num_mix=num_mix, smoothing=smoothing))

    def entropy(target: object) -> float:
        row = target[0].double()  # type: ignore[index]
        return float(-(row[row > 0] * row[row > 0].log()).sum())

    options = {"smoothing": smoothing}
    assert found["loss_origin_to_origin"] == pytest.approx(entropy(targets.origin_to_origin(64, **options)), abs=1e-6)
    assert found["loss_mix_to_origin"] == pytest.approx(
        entropy(targets.mix_to_origin(64, num_mix, **options)), abs=1e-6
    )
    assert found["loss_mix_to_mix"] == pytest.approx(entropy(targets.mix_to_mix(64, num_mix, **options)), abs=1e-6)


def test_floors_follow_exact_weights_of_views_and_of_crops() -> None:
    found = floors(config(None, num_mix=2), num_patches=(49, 9))

    def entropy(*sizes: int) -> float:
        return -sum(size / sum(sizes) * math.log(size / sum(sizes)) for size in sizes)

    assert found["loss_origin_to_origin"] == found["loss_local"] == 0
    assert found["loss_mix_to_origin"] == pytest.approx(entropy(25, 24))
    assert found["loss_local_mix"] == pytest.approx(2 * entropy(5, 4))
    assert found["loss_mix_to_mix"] == pytest.approx(entropy(25 * 24, 25**2 + 24**2, 25 * 24))


def test_floors_of_two_mixed_images_are_the_published_weights() -> None:
    found = floors(config(None))
    assert found["loss_origin_to_origin"] == 0
    assert found["loss_mix_to_origin"] == pytest.approx(math.log(2))
    assert found["loss_mix_to_mix"] == pytest.approx(1.5 * math.log(2))

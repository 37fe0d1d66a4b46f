"""The verdict says no more than the intervals allow; floors are entropies of the targets."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from run_directories import config, write_knn, write_run

from patchmix import targets
from patchmix.reporting.curves import floors
from patchmix.reporting.run_files import read_run
from patchmix.reporting.verdict import LEARNED, NOT_LEARNED, PARTLY, UNKNOWN, judge


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
    directory = write_run(tmp_path / "demo", config(None))
    write_knn(directory, run, untrained, pixels)
    assert judge(read_run(directory))[0] == level


def test_without_baselines_or_results_there_is_no_verdict(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "demo", config(None))
    assert judge(read_run(directory))[0] == UNKNOWN
    (directory / "results").mkdir()
    (directory / "results" / "knn.json").write_text('{"metrics": {"top1_k20": 97.0}}')
    assert judge(read_run(directory))[0] == UNKNOWN


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


def test_floors_of_two_mixed_images_are_the_published_weights() -> None:
    found = floors(config(None))
    assert found["loss_origin_to_origin"] == 0
    assert found["loss_mix_to_origin"] == pytest.approx(math.log(2))
    assert found["loss_mix_to_mix"] == pytest.approx(1.5 * math.log(2))

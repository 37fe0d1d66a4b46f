"""A comparison's folder: what it says once all runs are finished, what may join it, and what may not."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from tests.unit.comparing.studies import ask, cells, summarise, write_cell
from tests.unit.reporting.pages import words

import patchmix
from patchmix import cli
from patchmix.comparing import summary
from patchmix.comparing.request import request
from patchmix.errors import UserError

VALUES = {("patchmix", 0): 90.0, ("patchmix", 1): 91.0, ("patchmix", 2): 92.5}
VALUES |= {("moco-v3", 0): 91.0, ("moco-v3", 1): 92.5, ("moco-v3", 2): 93.0}


def finished(output: Path, **given: Any) -> None:
    for cell in cells(ask(output, **given)):
        write_cell(cell, VALUES.get((cell.plan.setting.name, cell.seed), 50.0 + cell.seed))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two methods, three seeds, all finished."""
    output = tmp_path / "study"
    finished(output)
    return output


def test_the_folder_says_what_came_out(study: Path) -> None:
    content, text = summarise(ask(study))
    assert content == json.loads((study / "comparison.json").read_text(encoding="utf-8"))
    assert (content["command"], content["reference"], content["budget"]) == ("compare", "patchmix", "encoder-passes")
    assert [(cell["name"], cell["seed"], cell["epochs"]) for cell in content["cells"]] == [
        *(("patchmix", seed, 6) for seed in range(3)),
        *(("moco-v3", seed, 8) for seed in range(3)),
    ]
    assert {cell["status"] for cell in content["cells"]} == {"finished"}
    rows = {(row["name"], row["metric"]): row for row in content["table"]}
    assert rows["moco-v3", "knn_top1_k20"] == {
        "name": "moco-v3",
        "metric": "knn_top1_k20",
        "n": 3,
        "mean": pytest.approx(92.1667, abs=1e-4),
        "std": pytest.approx(1.0408, abs=1e-4),
        "lowest": 91.0,
        "highest": 93.0,
    }
    (row,) = (row for row in content["differences"] if row["metric"] == "knn_top1_k20")
    assert (row["name"], row["reference"], row["n"], row["mean"]) == ("moco-v3", "patchmix", 3, 1.0)
    # Differences 1, 1.5, 0.5: standard deviation 0.5, t(0.975, 2) = 4.3027.
    assert row["interval95"] == pytest.approx([1 - 4.3027 * 0.5 / 3**0.5, 1 + 4.3027 * 0.5 / 3**0.5], abs=1e-3)
    assert "moco-v3" in text
    assert "92.17 ± 1.04 (3)" in text
    assert "−0.24 to +2.24" in text
    table = (study / "table.md").read_text(encoding="utf-8")
    assert "| moco-v3 | 8 |" in table
    assert "| moco-v3 | kNN, k = 20 | +1.00 | −0.24 to +2.24 | 3 | 1.63 |" in table


def test_equal_cost_is_recorded_as_it_came_out(study: Path) -> None:
    first, second = summarise(ask(study))[0]["settings"]["compared"]
    assert (first["cost"]["forward_units"], second["cost"]["forward_units"]) == (8, 6)
    assert first["encoder_passes"] == 6 * 3 * 8 * 32
    assert second["encoder_passes"] == 8 * 3 * 6 * 32
    assert second["given"] == {"method.name": "moco-v3"}


def test_the_page_needs_nothing_else_and_says_the_same(study: Path) -> None:
    summarise(ask(study))
    page = (study / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"(?:src|href)=[\"'](?!#|data:)", page)
    assert not re.search(r"url\((?!#)", page)
    assert "<script" not in page
    assert page.count("<svg") == 4  # three metrics' differences, and the curves
    shown = words(page)
    assert "92.17 ± 1.04 (3)" in shown
    assert "−0.24 to +2.24" in shown
    assert "Recipe demo; patchmix, moco-v3; seeds 0, 1, 2" in shown
    assert "method.name moco-v3" in shown
    assert not re.search(r"#0102[0-9a-f]{2}", page)  # every placeholder has become a colour of the page
    assert set(re.findall(r"var\(--([\w-]+)\)", page)) <= set(re.findall(r"--([\w-]+):", page))


def test_names_and_errors_on_the_page_are_text(tmp_path: Path) -> None:
    from patchmix.comparing.page import render

    finished(tmp_path / "study", seeds=1)
    content, _ = summarise(ask(tmp_path / "study", seeds=1))
    content["cells"][1] |= {"status": "failed", "error": "<script>alert(1)</script>"}
    content["commands"] = ["patchmix compare --output '<b>'"]
    page = render(content, tmp_path / "study")
    assert "<script>" not in page
    assert "<b>" not in page
    assert "moco-v3, seed 0, failed after 24 of 24 steps: <script>alert(1)</script>" in words(page)


def test_one_seed_has_no_interval_and_it_is_said(tmp_path: Path) -> None:
    finished(tmp_path / "study", seeds=1)
    content, text = summarise(ask(tmp_path / "study", seeds=1))
    assert {row["interval95"] for row in content["differences"]} == {None}
    assert {row["std"] for row in content["table"]} == {None}
    assert "none: one pair" in text
    assert "One seed has no spread" in text


def test_notes_name_what_makes_runs_unequal(study: Path) -> None:
    content, _ = summarise(ask(study))
    assert len(summary.notes(content)) == 1  # how equal the encoder passes are
    first, second = content["settings"]["compared"]
    second["given"] = {"model.drop_path": 0.0, "model.projector_width": 64}
    assert len(summary.notes(content)) == 1
    second["given"]["model.depth"] = 2
    assert "The encoders or their inputs differ" in summary.notes(content)[1]
    content["budget"], content["settings"]["seconds_per_run"] = "seconds", 10.0
    first["seconds_per_step"], second["seconds_per_step"] = 0.5, 0.5  # 18 and 24 steps: 9 s and 12 s
    content["cells"][0]["software"] = {"torch": "2.9.0", "commit": "a"}
    content["cells"][1]["software"] = {"torch": "2.11.0", "commit": "a"}
    clock, software = summary.notes(content)
    assert "nearest to 10 s by a trial of each setting; at most 20.0 % beside it" in clock
    assert software == "The runs were not all trained by the same software: torch 2.9.0 and 2.11.0."


def test_curves_are_of_finished_runs_alone(study: Path) -> None:
    content, _ = summarise(ask(study))
    content["cells"][0]["status"] = "failed"
    found = summary.curves(content)
    assert {name: len(curves) for name, curves in found.items()} == {"patchmix": 2, "moco-v3": 3}


def test_a_table_in_markdown_keeps_bars_within_their_cell() -> None:
    table = summary.markdown_table(["", "n"], [["a|b", "3"]])
    assert table == "|  | n |\n| --- | ---: |\n| a\\|b | 3 |"


def test_output_alone_is_the_comparison_that_is_there(study: Path) -> None:
    before, _ = summarise(ask(study))
    again, _ = summarise(request(None, None, {"output": str(study)}))
    same = ("cells", "table", "differences", "settings", "recipe", "reference")
    assert {name: again[name] for name in same} == {name: before[name] for name in same}
    assert patchmix.compare(output=study)["table"] == before["table"]


def test_more_seeds_and_methods_join_a_folder_and_the_reference_stays(study: Path) -> None:
    summarise(ask(study))
    more = {"methods": "simclr", "seeds": "0,4"}
    finished(study, **more)
    content, _ = summarise(request(None, None, {"output": str(study), **more}))
    assert content["reference"] == "patchmix"
    assert [(cell["name"], cell["seed"]) for cell in content["cells"]][-2:] == [("simclr", 0), ("simclr", 4)]
    assert {cell["status"] for cell in content["cells"]} == {"finished"}
    (row,) = (row for row in content["differences"] if row["name"] == "simclr" and row["metric"] == "knn_top1_k20")
    assert row["seeds"] == [0]
    assert content["settings"]["seeds"] == [0, 1, 2, 4]
    # Nobody asked for seed 4 of the others.
    again, _ = summarise(request(None, None, {"output": str(study)}))
    assert len(again["cells"]) == 8


REFUSED = [
    ({"optim.lr": 0.5}, r"holds another comparison \(optim.lr 0.02 → 0.5\)"),
    ({"budget": "epochs"}, r"holds another comparison \(budget encoder-passes → epochs\)"),
    (
        {"methods": "patchmix", "vary": "method.num_mix=3", "variant": "moco-v3 method.num_mix=3"},
        "vary: method.num_mix is what moco-v3 sets",
    ),
    (
        {"variant": "moco-v3 method.num_mix=3"},
        r"moco-v3 is another setting in .*method.name 'moco-v3' → 'patchmix', method.num_mix 2 → 3",
    ),
]


@pytest.mark.parametrize(("given", "message"), REFUSED)
def test_another_comparison_never_joins(given: dict[str, Any], message: str, study: Path) -> None:
    summarise(ask(study))
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=message):
        request(None, None, {"output": str(study), **given})
    assert before == {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}


def test_a_folder_of_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"holds other files \(thesis.tex\)"):
        ask(tmp_path)
    (tmp_path / "thesis.tex").rename(tmp_path / "comparison.json")
    with pytest.raises(UserError, match="cannot be read as a comparison"):
        ask(tmp_path)


@pytest.mark.parametrize("name", ["seeds", "evaluations", "budget"])
def test_a_comparison_that_lacks_something_cannot_be_read(name: str, study: Path) -> None:
    content, _ = summarise(ask(study))
    del content["settings"][name]
    (study / "comparison.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"cannot be read as a comparison .*lacks {name}.*: move it"):
        request(None, None, {"output": str(study)})


def test_a_dry_run_shows_the_runs_and_writes_nothing(tmp_path: Path) -> None:
    output = tmp_path / "study"
    content, text = summarise(ask(output, vary="method.num_mix=1,2", seeds="0,7", dry_run=True))
    assert not output.exists()
    assert len(content["cells"]) == 4
    assert "patchmix-num_mix=2-s7" in text
    assert "4 runs in" in text


def test_unlabelled_images_are_not_measured_and_it_is_said(tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    photos = tmp_path / "photos"
    photos.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(photos / f"{number}.png")
    data = {"data.name": "folder", "data.root": str(photos), "data.image_size": 28, "data.limit": None}
    asked = ask(tmp_path / "study", seeds=1, **data, **{"data.channels": 1})
    for cell in cells(asked):
        write_cell(cell, 90.0, evaluations=())
    content, text = summarise(asked)
    assert {cell["status"] for cell in content["cells"]} == {"finished"}
    assert "no labelled test images" in text
    assert math.isclose(content["table"][0]["mean"], 90.0)  # the online figure, which this folder would not have


MISTAKES = [
    ("--recipe demo --methods moco_v3", "there is no method 'moco_v3'; did you mean moco-v3"),
    ("--recipe demo --vary method.mix=1,2", "there is no option method.mix"),
    ("--recipe demo --seeds 0", "seeds = 0 is not accepted: how many seeds (3), or different ones"),
    ("--recipe demo --seeds 1,1", "seeds = '1,1' is not accepted"),
    ("--recipe demo --seed 1", "compare has no option --seed; did you mean --seeds?"),
    ("--recipe demo --max_steps 3", "compare has no option --max_steps"),
    ("--recipe demo --evaluations kmeans", "evaluations = [kmeans] is not accepted"),
    ("--recipe demo --evaluations knn knn", "evaluations = ['knn', 'knn'] is not accepted: each of them once"),
    ("--recipe demo --budget seconds", "seconds_per_run = null is not accepted: a number above 0"),
    ("--recipe demo --seconds_per_run 60", "seconds_per_run = 60 is not accepted: null without --budget seconds"),
    ("--recipe demo --budget time", "budget = 'time' is not accepted"),
    ("--recipe dmo", "there is no recipe 'dmo'; did you mean demo?"),
    ("--recipe demo --output file", "output = 'file' is a file: name a directory"),
    (
        "",
        "nothing says what to train on: give --recipe NAME (see `patchmix recipes`), --data.root FOLDER for images of",
    ),
    ("--output new", "or --output FOLDER of a comparison that is to go on"),
]


@pytest.mark.parametrize(("line", "message"), MISTAKES)
def test_a_mistake_is_one_line_and_says_how_to_mend_it(
    line: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert cli.main(["compare", *line.split()]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert (out, err.count("\n")) == ("", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_what_pretrain_would_refuse_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"patchmix: optim.batch_size = 97 is more than the 96 training images"):
        summarise(ask(tmp_path / "study", **{"optim.batch_size": 97}))
    with pytest.raises(UserError, match=r"cannot be written"):
        summarise(ask(Path("/proc/study")))

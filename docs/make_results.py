"""Writes the studies' tables into docs/results.md and draws their figures, from docs/studies/*.json.

A study is the comparison.json of a `patchmix compare`, copied there; its place in the page is between the lines
`<!-- study NAME -->` and `<!-- end of NAME -->`. `make results` runs this; with --check nothing is written, and tables
or figures that the files do not give are an error (`make check`).
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from PIL import Image

from patchmix.comparing import summary
from patchmix.comparing.plots import bands

PAGE = Path(__file__).with_name("results.md")
STUDIES, IMAGES = (Path(__file__).with_name(name) for name in ("studies", "images"))
SOURCE = "Source"  # of a PNG's text: the hash of the file that a figure was drawn from
COLOURS = ("#b3470f", "#1f5f99", "#3a7d44", "#7b4ba3", "#777777", "#a8860a", "#c2185b", "#00838f", "#5d4037", "#111111")


def hash_of(file: Path) -> str:
    """What a figure carries of the file that it was drawn from."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def section(file: Path) -> str:
    """A study in Markdown: its command, tables, notes and figure."""
    content = json.loads(file.read_text(encoding="utf-8"))
    hardware, packages = content["environment"]["hardware"], content["environment"]["packages"]
    seeds = ", ".join(map(str, content["settings"]["seeds"]))
    parts = [
        "\n".join(["```", *content["commands"], "```"]),
        f"Seeds {seeds}; {hardware['cpu']}, threads a run: {content['settings']['num_threads']}, torch "
        f"{packages['torch']}. Mean ± standard deviation over the seeds (n); differences are paired by seed, with the "
        "95 % interval of Student's t. What could be seen: the smallest true difference that so many pairs find in "
        "four of five studies.",
    ]
    for headings, rows in (summary.result_table(content), summary.difference_table(content)):
        if rows:
            parts.append(summary.markdown_table(headings, rows))
    parts += summary.notes(content)
    parts.append(f"![{caption(content)}](images/study-{file.stem}.png)")
    return "\n\n".join(parts)


def caption(content: dict[str, Any]) -> str:
    """What the figure shows, for those who do not see it."""
    names = ", ".join(summary.names(content))
    return f"Online kNN against encoder passes, and differences with their intervals: {names}"


def draw(file: Path) -> None:
    """Learning curves with bands, and the differences to the reference with their intervals."""
    content = json.loads(file.read_text(encoding="utf-8"))
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), width_ratios=(3, 2), layout="constrained")
    draw_curves(left, content)
    draw_differences(right, content)
    figure.savefig(IMAGES / f"study-{file.stem}.png", dpi=110, metadata={SOURCE: hash_of(file)})
    plt.close(figure)


def draw_curves(axes: Axes, content: dict[str, Any]) -> None:
    """Mean over the seeds of finished runs, between the lowest and the highest."""
    for band, colour in zip(bands(summary.curves(content)), COLOURS * 3, strict=False):
        axes.fill_between(band.x, band.low, band.high, color=colour, alpha=0.16, linewidth=0)
        axes.plot(band.x, band.mean, color=colour, label=band.label)
    axes.set_xlabel("encoder passes, millions of images")
    axes.set_ylabel("kNN among training images, %")
    axes.legend(frameon=False, fontsize=9)
    axes.grid(axis="y", alpha=0.3)


def draw_differences(axes: Axes, content: dict[str, Any]) -> None:
    """A dot and an interval for each setting and main metric."""
    metrics = summary.main_metrics(content)
    rows = [row for metric in metrics for row in content["differences"] if row["metric"] == metric]
    several = len({row["name"] for row in rows}) > 1
    axes.axvline(0, color="#888888", linestyle="--", linewidth=1)
    for place, row in enumerate(rows):
        colour = COLOURS[metrics.index(row["metric"])]
        axes.plot(row["interval95"] or [row["mean"]] * 2, [place, place], color=colour, linewidth=3)
        axes.plot([row["mean"]], [place], marker="o", color=colour)
    labels = [f"{row['name']}: " * several + summary.title(row["metric"]) for row in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel(f"points above {content['reference']}")
    axes.grid(axis="x", alpha=0.3)


def page() -> str:
    """The page with the sections that the studies give now."""
    text = PAGE.read_text(encoding="utf-8")
    for file in sorted(STUDIES.glob("*.json")):
        begin, end = f"<!-- study {file.stem} -->", f"<!-- end of {file.stem} -->"
        if begin not in text or end not in text:
            sys.exit(f"docs/results.md has no place for {file.name}: add the lines {begin} and {end}")
        before, rest = text.split(begin, 1)
        text = f"{before}{begin}\n{section(file)}\n{end}{rest.split(end, 1)[1]}"
    return text


def check() -> None:
    """Exit with a message where page or figures are not what the studies give."""
    text = PAGE.read_text(encoding="utf-8")
    for name in re.findall(r"<!-- study (\S+) -->", text):
        if not (STUDIES / f"{name}.json").exists():
            sys.exit(f"docs/results.md shows the study {name}, which docs/studies does not have")
    if text != page():
        sys.exit("docs/results.md is not what docs/studies gives: run `make results`")
    for file in sorted(STUDIES.glob("*.json")):
        picture = IMAGES / f"study-{file.stem}.png"
        if not picture.exists() or Image.open(picture).info.get(SOURCE) != hash_of(file):
            sys.exit(f"docs/images/{picture.name} is not drawn from docs/studies/{file.name}: run `make results`")


if __name__ == "__main__":
    if "--check" in sys.argv:
        check()
    else:
        PAGE.write_text(page(), encoding="utf-8")
        for study in sorted(STUDIES.glob("*.json")):
            draw(study)

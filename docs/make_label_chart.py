"""Draws docs/images/labels.png: what labels are worth with and without pre-training, from the results of real runs.

Each panel is a title and the folders that evaluations were written to, of one or several seeds; read are fewshot.json
and finetune.json in their results/ (docs/results.md has the commands):
python docs/make_label_chart.py --panel "Digits" OUTPUT... --panel "CIFAR-10" OUTPUT...
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

PICTURE = Path(__file__).parent / "images" / "labels.png"
# What a line is called, its colour and dash, and the metrics of few labels and of all of them that it is drawn from.
LINES = {
    "pre-trained, fine-tuned": ("#b3470f", "-", "finetune_top1"),
    "pre-trained, frozen: logistic regression": ("#b3470f", "--", "top1"),
    "from scratch": ("#1f5f99", "-", "random_init_finetune_top1"),
    "raw pixels: logistic regression": ("#777777", ":", "pixels_top1"),
}
Points = dict[str, dict[float, list[float]]]  # line -> labels per class -> top-1 % of each seed


def read(folders: list[Path]) -> Points:
    """All points of a panel."""
    points: Points = defaultdict(lambda: defaultdict(list))
    names = {metric: title for title, (_, _, metric) in LINES.items()}
    for file in sorted(each for folder in folders for each in (folder / "results").glob("*.json")):
        result = json.loads(file.read_text(encoding="utf-8"))
        if result["command"] == "fewshot":
            for name, value in result["metrics"].items():
                match = re.fullmatch(r"(.*top1)_(\d+)_per_class", name)
                if match and match[1] in names:
                    points[names[match[1]]][int(match[2])].append(value)
        elif result["command"] == "finetune":
            labels = result["data"]["num_train"] / result["data"]["num_classes"]
            title = "from scratch" if result["checkpoint"] == "none" else "pre-trained, fine-tuned"
            points[title][labels].append(result["metrics"]["top1"])
    return points


def draw(axes: Axes, title: str, points: Points) -> None:
    """One panel: mean over seeds, a bar for their lowest and highest."""
    for name, (colour, dash, _) in LINES.items():
        amounts = sorted(points[name])
        means = [statistics.mean(points[name][amount]) for amount in amounts]
        below = [mean - min(points[name][amount]) for mean, amount in zip(means, amounts, strict=True)]
        above = [max(points[name][amount]) - mean for mean, amount in zip(means, amounts, strict=True)]
        style = {"color": colour, "linestyle": dash, "marker": "o", "markersize": 3.5, "capsize": 2, "label": name}
        axes.errorbar(amounts, means, yerr=[below, above], **style)
    every = sorted({amount for line in points.values() for amount in line})
    axes.set_xscale("log")
    axes.set_xticks(every, [f"{amount:,.0f}" for amount in every], minor=False)
    axes.minorticks_off()
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel("labelled images per class")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Read, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--panel", nargs="+", action="append", required=True, metavar=("TITLE", "FOLDER"))
    panels = parser.parse_args().panel
    figure, all_axes = plt.subplots(
        1, len(panels), figsize=(4.6 * len(panels), 3.9), layout="constrained", squeeze=False
    )
    for axes, (title, *folders) in zip(all_axes[0], panels, strict=True):
        draw(axes, title, read([Path(each) for each in folders]))
    all_axes[0][0].set_ylabel("right, % of the test images")
    handles, names = all_axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.savefig(PICTURE, dpi=144)
    print(f"{PICTURE}: {PICTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()

"""Where a step's time goes, the plain version beside ours: a table, and the chart docs/images/step.png.

Kinds of step take turns in one process; seconds are counted by part (patchmix.timing). Models and kinds are those of
step.py. Command: python benchmarks/step_parts.py (about five minutes on two cores), or with --only "ViT-T".
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt

from patchmix.benching.steps import seconds_of
from patchmix.timing import measured
from spinning import begin_again
from step import CASES, CPU, PLAIN, kinds, show

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "step.png"
SHOWN = (PLAIN, "float32", "bf16-mixed")
ROUNDS = 5
# Parts that are shown together, and their colour.
GROUPS: dict[str, tuple[tuple[str, ...], str]] = {
    "forward, view 1 (query and key)": (("forward view1",), "#8c3a0c"),
    "forward, view 2 (key)": (("forward view2",), "#c1652c"),
    "forward, mixed 1 (key)": (("forward mixed1",), "#e0985f"),
    "forward, mixed 2 (query)": (("forward mixed2",), "#f2c9a1"),
    "backward": (("backward",), "#1f5f99"),
    "optimiser, momentum": (("optimiser", "momentum"), "#7fb069"),
    "views, mixing, loss, rest": (("views", "mixing", "loss", "logging", "the rest"), "#555555"),
}
Medians = dict[str, dict[str, float]]  # kind -> group -> seconds


def measure(title: str) -> Medians:
    """Median seconds of each group of parts, of each kind of step."""
    _, recipe, changes = next(case for case in CASES if case[0] == title)
    found: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in SHOWN}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        steps = {name: kind.step for name, kind in kinds(recipe, changes, Path(folder), stack).items() if name in SHOWN}
        for number in range(1 + ROUNDS):
            for name, step in steps.items():
                with measured() as timings:
                    whole = seconds_of(step, CPU)
                seconds = timings.seconds | {"the rest": whole - sum(timings.seconds.values())}
                for group, (parts, _) in GROUPS.items() if number else ():  # the first round warms up
                    found[name][group].append(sum(seconds.get(part, 0.0) for part in parts))
    return {
        name: {group: statistics.median(times) for group, times in groups.items()} for name, groups in found.items()
    }


def draw(found: dict[str, Medians]) -> None:
    """A panel for each model, a stacked bar for each kind of step."""
    figure, panels = plt.subplots(
        len(found), 1, figsize=(9, 1.2 + 1.6 * len(found)), layout="constrained", squeeze=False
    )
    for (axes,), (title, medians) in zip(panels, found.items(), strict=True):
        left = dict.fromkeys(medians, 0.0)
        for group, (_, colour) in GROUPS.items():
            widths = [medians[name][group] for name in medians]
            axes.barh(list(medians), widths, left=list(left.values()), color=colour, label=group, height=0.6)
            left = {name: left[name] + medians[name][group] for name in medians}
        for name, whole in left.items():
            axes.text(whole, name, f"  {whole:.2f} s", va="center", fontsize=9)
        axes.invert_yaxis()
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlim(0, 1.12 * max(left.values()))
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1][0].set_xlabel("seconds of a training step")
    handles, names = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(PICTURE, dpi=144)


def lines(only: str = "") -> Iterator[str]:
    """This benchmark's section of results.md, as it is measured."""
    yield "## Parts of a training step beside those of the plain version"
    yield ""
    yield f"`python benchmarks/step_parts.py`; seconds, medians of {ROUNDS}, taking turns in one process."
    yield ""
    yield f"| model | kind | {' | '.join(GROUPS)} | together |"
    yield "|---|---|" + "---|" * (1 + len(GROUPS))
    found = {}
    for title in (case[0] for case in CASES if only in case[0]):
        found[title] = measure(title)
        for name, medians in found[title].items():
            cells = " | ".join(f"{medians[group]:.2f}" for group in GROUPS)
            yield f"| {title} | {name} | {cells} | {sum(medians.values()):.2f} |"
    draw(found)


if __name__ == "__main__":
    begin_again()
    show(lines, __doc__)

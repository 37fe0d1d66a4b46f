"""A folder's survey as text and as files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from patchmix.data.survey import TINY, Sides, Survey, survey_folder
from patchmix.data.unreadable import tsv_field
from patchmix.files import write_text
from patchmix.progress import say

SHOWN = 20

_MODES = {"L": "grey", "LA": "grey with alpha", "I;16": "16-bit grey", "I": "32-bit grey", "F": "floating-point grey"}
_MODES |= {"P": "palette", "1": "black and white"}

Item = TypeVar("Item")


def print_survey(
    root: str, *, images: int = 20_000, decode: int = 2000, output: str | None = None, console: Console | None = None
) -> Survey:
    """Look at a folder's images, print what is there, and write it to a folder where one is given.

    Raises:
        UserError: as `survey_folder`.
        RunError: `output` cannot be written.
    """
    console = console or Console()
    errors = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:

        def track(what: str, items: Sequence[Item], /) -> Iterable[Item]:
            return progress.track(items, description=what)

        survey = survey_folder(root, images=images, decode=decode, track=track)
    console.print(_table(survey))
    for line in _lines(survey):
        say(console, line)
    if output is not None:
        write_survey(survey, Path(output))
        say(console, f"\nWritten to {tsv_field(output)}: survey.json, unreadable.tsv, duplicates.tsv")
    return survey


def write_survey(survey: Survey, output: Path) -> None:
    """Write survey.json, unreadable.tsv (path, why) and duplicates.tsv (number of the group, path).

    Raises:
        RunError: they cannot be written.
    """
    groups = enumerate(survey.duplicates, start=1)
    write_text(output / "survey.json", json.dumps(survey.to_dict(), indent=2) + "\n")
    write_text(output / "unreadable.tsv", _tsv(survey.unreadable))
    write_text(output / "duplicates.tsv", _tsv((str(number), path) for number, group in groups for path in group))


def _tsv(rows: Iterable[Iterable[str]]) -> str:
    return "".join("\t".join(map(tsv_field, row)) + "\n" for row in rows)


def _table(survey: Survey) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in _rows(survey):
        table.add_row(label, escape(text))
    return table


def _rows(survey: Survey) -> Iterator[tuple[str, str]]:
    yield "folder", tsv_field(survey.root)
    several = len(survey.splits) > 1
    for name, split in survey.splits.items():
        yield (
            f"{name} images" if several else "images",
            f"{split.num_images:,}, {_bytes(split.num_bytes)}"
            + (f", in {len(split.classes):,} class folders" if split.classes else ", no class folders"),
        )
        if split.classes:
            yield "", _counts(split.classes)
        if split.left_out:
            yield "left out", split.left_out
    if survey.num_looked_at < survey.num_images:
        yield "looked at", f"{survey.num_looked_at:,} of them, evenly spaced (--images N for more)"
    if survey.widths and survey.heights and survey.shorter_sides and survey.largest:
        yield "kinds", _counts(survey.kinds)
        yield "pixels", _counts({_MODES.get(mode, mode): count for mode, count in survey.modes.items()})
        yield "width", _sides(survey.widths)
        yield "height", _sides(survey.heights)
        yield (
            "shorter side",
            _sides(survey.shorter_sides) + (f"; {survey.num_tiny:,} below {TINY} px" if survey.num_tiny else ""),
        )
        if survey.shorter_sides.least < survey.widths.most:
            yield "largest", tsv_field(survey.largest)
    if survey.statistics:
        decoded = f" ({survey.num_decoded:,} decoded)"
        yield "colour", ("none: all are grey" if survey.statistics.grey else "yes") + decoded
        yield "mean", _numbers(survey.statistics.mean)
        yield "deviation", _numbers(survey.statistics.std)


def _lines(survey: Survey) -> Iterator[str]:
    """What may need mending, and the options that follow from what was found."""
    share = 100 * len(survey.unreadable) / survey.num_looked_at
    if survey.unreadable:
        yield f"\n{len(survey.unreadable):,} of {survey.num_looked_at:,} files cannot be read ({_percent(share)}):"
        yield from (f"  {tsv_field(path)}: {tsv_field(why)}" for path, why in survey.unreadable[:SHOWN])
        yield from _rest(len(survey.unreadable), "unreadable.tsv")
    else:
        yield "\nNo unreadable file was found."
    if survey.num_decoded + len(survey.unreadable) < survey.num_looked_at:
        yield f"  (damage inside a file shows when it is decoded: {survey.num_decoded:,} were, --decode N for more)"
    if survey.duplicates:
        across = survey.num_across_splits
        yield (
            f"\n{_counted(survey.num_superfluous, 'file repeats', 'files repeat')} others, byte for byte, in "
            f"{_counted(len(survey.duplicates), 'group', 'groups')}"
            + (f"; {_counted(across, 'group lies', 'groups lie')} in train and test" if across else "")
            + ":"
        )
        for group in survey.duplicates[:SHOWN]:
            yield "  " + "  =  ".join(map(tsv_field, group[:3])) + (f"  = {len(group) - 3:,} more" if group[3:] else "")
        yield from _rest(len(survey.duplicates), "duplicates.tsv")
        most = max(survey.duplicates, key=len)
        if len(most) > survey.num_looked_at / 2:
            yield (
                f"Most of this folder is one image: {len(most):,} of {survey.num_looked_at:,} files are "
                f"{tsv_field(most[0])}; keep one of them, a model learns nothing from copies"
            )
    elif survey.kinds:
        yield "No duplicate file was found."
    if survey.num_dark:
        yield (
            f"\n{_counted(survey.num_dark, 'image', 'images')} of {survey.num_decoded:,} decoded "
            f"{'has' if survey.num_dark == 1 else 'have'} values of {survey.dark_bits} bits or fewer in 16, and "
            f"{'comes' if survey.num_dark == 1 else 'come'} out dark: multiply the values by "
            f"{2 ** (16 - survey.dark_bits)} and save the files again"
        )
    if survey.statistics and min(survey.statistics.std) >= 0.001:
        channels = "--data.channels 1 " if survey.statistics.grey else ""
        mean, std = _numbers(survey.statistics.mean), _numbers(survey.statistics.std)
        yield f"\nTo normalise by these images: {channels}--data.mean {mean} --data.std {std}"


def _rest(count: int, file: str) -> Iterator[str]:
    if count > SHOWN:
        yield f"  … and {count - SHOWN:,} more; with --output DIR, {file} lists all"


def _counts(counts: Mapping[str, int]) -> str:
    shown = [f"{tsv_field(name)} {count:,}" for name, count in list(counts.items())[:SHOWN]]
    return ", ".join(shown) + (f", … {len(counts) - SHOWN:,} more" if len(counts) > SHOWN else "")


def _sides(sides: Sides) -> str:
    if sides.least == sides.most:
        return f"{sides.least:,} px"
    return f"{sides.least:,} to {sides.most:,} px, median {sides.median:,}"


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def _counted(number: int, one: str, several: str) -> str:
    return f"{number:,} {one if number == 1 else several}"


def _percent(share: float) -> str:
    return f"{share:.0f} %" if share >= 10 else f"{share:.2g} %"


def _bytes(count: int) -> str:
    size, units = float(count), iter(("bytes", "kB", "MB", "GB"))
    unit = next(units)
    while size >= 1000 and (larger := next(units, None)):
        size, unit = size / 1000, larger
    return f"{size:.3g} {unit}" if size < 1000 else f"{size:,.0f} {unit}"

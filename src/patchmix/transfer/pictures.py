"""The pictures of a finished detector: what it found beside what is marked, and precision over recall."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

from patchmix.data.images import UnreadableImage
from patchmix.errors import RunError
from patchmix.files import replacing
from patchmix.reporting.plots import STYLE
from patchmix.transfer.coco_results import Record, by_image, from_records
from patchmix.transfer.detection_data import DetectionImages
from patchmix.transfer.overlays import beside, best, draw_found, draw_truth, precision_recall_plot
from patchmix.transfer.scoring import Scorer

CURVES_FILE = "curves.png"
OVERLAY_FILE = "overlay-{}.png"
DPI = 150


def draw_pictures(
    folder: Path, val: DetectionImages, records: Sequence[Record], scorer: Scorer, *, number: int, masks: bool
) -> None:
    """Write curves.png and, for evenly spaced images, overlay-IMAGE.png into the folder.

    Args:
        number: of images; those that cannot be read have none.

    Raises:
        RunError: the disk is full, or the folder cannot be written any more.
    """
    annotations, found = val.annotations, by_image(records)
    names = [category.name for category in annotations.categories]
    try:
        # The report's style, whose lines get their colour from the page.
        with matplotlib.rc_context({**STYLE, "grid.color": "#dddddd"}), replacing(folder / CURVES_FILE) as temporary:
            precision_recall_plot(scorer.curves()).savefig(temporary, format="png", dpi=DPI)
        for place in range(min(number, len(val))):
            index = place * len(val) // min(number, len(val))
            about = annotations.images[index]
            try:
                image = val.source.read(index)
            except UnreadableImage:
                continue
            predicted = best(from_records(found.get(about.id, []), about, annotations, masks=masks))
            row = beside(
                {
                    "marked": draw_truth(image, about, annotations, masks=masks),
                    "found": draw_found(image, predicted, names),
                }
            )
            with replacing(folder / OVERLAY_FILE.format(about.id)) as temporary:
                row.save(temporary, format="PNG")
    except OSError as error:
        raise RunError(f"pictures cannot be written to {folder}: {error.strerror or error}") from error

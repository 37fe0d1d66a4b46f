"""Pictures of detections: boxes, masks, names and scores on their image, ground truth beside them; precision curves.

shapes: n objects in an image of height × width
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from patchmix.transfer.annotations import AnnotatedImage, Annotations
from patchmix.transfer.coco_results import Found
from patchmix.transfer.scoring import Curve, true_masks

LEAST_SIDE = 512
"""Pixels of the longer side of a picture; smaller images are enlarged by a whole number, so that names fit."""
SIDE_A_LETTER, SIDE_A_LINE = 42, 320
"""The picture's longer side over the size of its letters, and over the width of its lines."""
LEAST_LETTER, LEAST_LINE = 13, 2
LINE_HEIGHT = 1.25
"""Of a name, in sizes of its letters."""
SHADE = 0.4
"""Opacity of masks."""
MARGIN = 8
COLOURS = (
    (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189),
    (140, 86, 75), (227, 119, 194), (23, 190, 207), (188, 189, 34), (127, 127, 127),
)  # fmt: skip
"""Of categories in turn; names tell apart those that share one."""
FONT = str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))
BOX_COLOUR, MASK_COLOUR = "#1a66c9", "#b4540a"
PAPER, INK = (255, 255, 255), (28, 32, 36)


def best(found: Found, *, min_score: float = 0.3, most: int = 20) -> Found:
    """The surest objects, best first: of at least this score, and so many at most."""
    order = found.scores.argsort(descending=True, stable=True)[:most]
    order = order[found.scores[order] >= min_score]
    masks = None if found.masks is None else found.masks[order]
    return Found(found.boxes[order], found.scores[order], found.labels[order], masks)


def draw(
    image: Tensor,
    boxes: Tensor,
    labels: Tensor,
    scores: Tensor | None,
    masks: Tensor | None,
    names: Sequence[str],
) -> Image.Image:
    """The image with its objects, each in the colour of its category; the first ones lie on top.

    Args:
        image: uint8 [3 or 1, height, width].
        boxes: [n, 4], x1, y1, x2, y2 in pixels of `image`; what lies outside is not drawn.
        labels: [n], 1 … number of names.
        scores: [n] in 0–1, written behind the names; None for ground truth.
        masks: bool or uint8 [n, height, width], or None.
        names: of the categories, the first is that of label 1.
    """
    places = [label - 1 for label in labels.tolist()]
    texts = [names[place] for place in places]
    if scores is not None:
        texts = [f"{text} {score:.2f}" for text, score in zip(texts, scores.tolist(), strict=True)]
    return _draw(image, boxes.detach().cpu(), texts, [COLOURS[place % len(COLOURS)] for place in places], masks)


def draw_found(image: Tensor, found: Found, names: Sequence[str]) -> Image.Image:
    """The image with what was found in it, as it is given: see `best`."""
    return draw(image, found.boxes, found.labels, found.scores, found.masks, names)


def draw_truth(image: Tensor, annotated: AnnotatedImage, annotations: Annotations, *, masks: bool) -> Image.Image:
    """The image with its annotations; crowd regions are called so.

    Where one has no segmentation: boxes alone.
    """
    # The smallest on top: a large one would hide it.
    objects = tuple(sorted(annotated.objects, key=lambda each: each.area))
    places = [annotations.label_of(each.category) - 1 for each in objects]
    boxes = torch.tensor([each.box for each in objects]).reshape(-1, 4)
    boxes = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)
    crowds = [" (crowd)" if each.is_crowd else "" for each in objects]
    texts = [annotations.categories[place].name + crowd for place, crowd in zip(places, crowds, strict=True)]
    known = masks and all(each.segmentation is not None for each in objects)
    colours = [COLOURS[place % len(COLOURS)] for place in places]
    return _draw(
        image, boxes, texts, colours, true_masks(dataclasses.replace(annotated, objects=objects)) if known else None
    )


def beside(pictures: Mapping[str, Image.Image]) -> Image.Image:
    """Pictures in a row, each under its caption: ground truth beside predictions."""
    letter = max(_letter(max(picture.size)) for picture in pictures.values())
    head = letter + 2 * MARGIN
    width = sum(picture.width for picture in pictures.values()) + MARGIN * (len(pictures) - 1)
    row = Image.new("RGB", (width, head + max(picture.height for picture in pictures.values())), PAPER)
    pen, font = ImageDraw.Draw(row), ImageFont.truetype(FONT, letter)
    left = 0
    for caption, picture in pictures.items():
        pen.text((left + 2, MARGIN), caption, fill=INK, font=font)
        row.paste(picture, (left, head))
        left += picture.width + MARGIN
    return row


def precision_recall_plot(curves: Mapping[str, Curve], *, colours: Sequence[str] = (BOX_COLOUR, MASK_COLOUR)) -> Figure:
    """Precision over recall at IoU 0.5, the mean over categories; a curve's mean, in its label, is AP50.

    In the style that is set by the caller (`matplotlib.rc_context`).
    """
    figure = Figure(figsize=(4.2, 2.9), layout="constrained")
    axes = figure.add_subplot()
    for (kind, curve), colour in zip(curves.items(), colours, strict=False):
        ap50 = sum(curve.precision) / len(curve.precision)
        axes.plot(curve.recall, curve.precision, color=colour, label=f"{kind}, AP50 {ap50:.1f}")
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 101)
    axes.set_xlabel("recall, %")
    axes.set_ylabel("precision, %")
    axes.xaxis.set_major_locator(MultipleLocator(20))
    axes.yaxis.set_major_locator(MultipleLocator(20))
    if curves:
        axes.legend(frameon=False, fontsize=9, labelcolor="linecolor", handlelength=1.2)
    return figure


def _draw(
    image: Tensor,
    boxes: Tensor,
    texts: Sequence[str],
    colours: Sequence[tuple[int, int, int]],
    masks: Tensor | None,
) -> Image.Image:
    picture = image.detach().cpu().expand(3, -1, -1)
    times = -(-LEAST_SIDE // max(picture.shape[-2:]))
    picture = _enlarged(picture, times)
    height, width = picture.shape[-2:]
    if not texts:  # torchvision warns
        return _as_image(picture)
    if masks is not None:
        shown = _on_top(masks.detach().cpu().bool())
        picture = draw_segmentation_masks(picture, _enlarged(shown, times), alpha=SHADE, colors=list(colours))
    corners = (boxes * times).clamp(min=0).minimum(torch.tensor([width, height, width, height]) - 1.0)
    letter = _letter(max(height, width))
    # The first is drawn last and lies on top. Names come after all boxes, and are no part of their own: torchvision
    # writes into the box, which hides a small object.
    picture = draw_bounding_boxes(
        picture, corners.flip(0), colors=list(colours)[::-1], width=max(LEAST_LINE, max(height, width) // SIDE_A_LINE)
    )
    picture = draw_bounding_boxes(
        picture,
        _above(corners, texts, letter, width).flip(0),
        labels=list(texts)[::-1],
        colors=list(colours)[::-1],
        width=0,
        font=FONT,
        font_size=letter,
        fill_labels=True,
        label_colors=[_ink_on(colour) for colour in colours][::-1],
    )
    return _as_image(picture)


def _as_image(picture: Tensor) -> Image.Image:
    """uint8 [3, height, width] → RGB."""
    return Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())


def _above(corners: Tensor, texts: Sequence[str], letter: int, width: int) -> Tensor:
    """Where the names of boxes [n, 4] go, as boxes: above them, or inside at the picture's upper edge; not cut off."""
    font = ImageFont.truetype(FONT, letter)
    lengths = torch.tensor([font.getlength(text) for text in texts]) + 4
    above = corners[:, 1] - (letter * LINE_HEIGHT + 2)
    left = corners[:, 0].minimum(width - lengths).clamp(min=0)
    top = torch.where(above < 0, corners[:, 1] + 2, above)
    return torch.stack([left, top, left + lengths, top + letter], dim=1)


def _on_top(masks: Tensor) -> Tensor:
    """Masks [n, height, width] without what earlier ones cover: torchvision paints black where two meet."""
    covered = masks.int().cumsum(dim=0) - masks.int()
    return masks & (covered == 0)


def _enlarged(pixels: Tensor, times: int) -> Tensor:
    """[…, height, width], each pixel a square of so many: what the detector saw, not what was smoothed since."""
    return pixels.repeat_interleave(times, dim=-2).repeat_interleave(times, dim=-1)


def _letter(side: int) -> int:
    return max(LEAST_LETTER, side // SIDE_A_LETTER)


def _ink_on(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever reads better; luminance by ITU-R BT.601."""
    red, green, blue = colour
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)

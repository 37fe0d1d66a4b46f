"""The report in a browser: a real run on files that go wrong, with names that would be markup."""

from __future__ import annotations

import itertools
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.runs import small_config

import patchmix
from patchmix.pretraining import pretrain

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Dialog, Page, Request

pytestmark = pytest.mark.browser

WIDE, NARROW = 1200, 500
CLASSES = ("plain", "<b>bold & a name of its class that is far longer than any tile")
DAMAGED = "<svg onload=alert(2)>.png"
# Elements that show text themselves, with their colour and the nearest background that is not transparent.
COLOURED_TEXT = """() => {
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].filter(node => node.nodeType === 3 && node.textContent.trim());
    if (!own.length || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    let behind = element;
    const background = () => getComputedStyle(behind).backgroundColor;
    while (behind && background() === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
    found.push([element.tagName + " " + own[0].textContent.trim().slice(0, 40),
      element.ownerSVGElement ? style.fill : style.color,
      behind ? background() : "rgb(255, 255, 255)"]);
  }
  return found;
}"""
# What reaches beyond the window, but for what lies in a box that scrolls by itself.
TOO_WIDE = """() => [...document.querySelectorAll("body *")].filter(element =>
    !element.closest("svg, .scroll *, pre") && element.getBoundingClientRect().right > innerWidth + 0.5
  ).map(element => element.outerHTML.slice(0, 120))"""
SCROLLING_TABLES = """() => [...document.querySelectorAll(".measures .scroll")].filter(
    box => box.scrollWidth > box.clientWidth).length"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Path:
    """The page of a run with skipped files and a measured kNN."""
    root = tmp_path_factory.mktemp("data")
    with zipfile.ZipFile(shared_data / "broken-images.zip") as archive:
        archive.extractall(root)
    files = sorted(path for path in (root / "broken-images").iterdir() if path.is_file())
    for number, path in enumerate(files):
        for split in ("train", "test") if path.name.startswith("good_") else ("train",):
            folder = root / "photos" / split / CLASSES[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / path.name)
    (root / "photos" / "train" / CLASSES[0] / DAMAGED).write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    output = tmp_path_factory.mktemp("runs") / "a <i>run & its name"
    data = {"data.name": "folder", "data.root": str(root / "photos"), "data.image_size": 28, "data.limit": None}
    views = {
        "views.kind": "photo",
        "views.global_scale": (0.3, 1.0),
        "views.num_local_crops": 1,
        "views.local_size": 14,
    }
    pretrain(small_config(output, **data, **views, **{"optim.batch_size": 8, "optim.epochs": 2}), recipe="demo")
    patchmix.knn(output, k=(1, 5, 10, 20))
    assert DAMAGED in (output / "skipped.tsv").read_text()
    return patchmix.report(output)


@pytest.fixture
def opened(chromium: Browser, report: Path) -> Iterator[Callable[..., Page]]:
    """Opens the page in a window of a width, in a colour scheme; whatever it does that it should not is a failure."""
    contexts = []
    misdeeds: list[str] = []

    def open_page(width: int = WIDE, scheme: Any = "light") -> Page:
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: misdeeds.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: misdeeds.append(f"error: {error}"))
        page.on("dialog", note_dialog)
        page.on("request", note_request)
        page.goto(report.as_uri())
        return page

    def note_dialog(dialog: Dialog) -> None:
        misdeeds.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def note_request(request: Request) -> None:
        if request.url != report.as_uri() and not request.url.startswith("data:"):
            misdeeds.append(f"request: {request.url}")

    yield open_page
    for context in contexts:
        context.close()
    assert not misdeeds


def test_opens_without_errors_requests_or_dialogs(opened: Callable[..., Page]) -> None:
    page = opened()
    assert page.title() == "a <i>run & its name · PatchMix report"
    assert page.locator("section").count() == 9
    assert page.locator("img").count() > 60
    assert page.evaluate("() => [...document.images].every(image => image.complete && image.naturalWidth > 0)")


def test_names_of_files_classes_and_runs_are_shown_as_they_are(opened: Callable[..., Page]) -> None:
    page = opened()
    assert "<img src=x onerror=alert(1)>.jpg" in " ".join(
        page.evaluate("() => [...document.querySelectorAll('[title]')].map(element => element.title)")
    )
    assert DAMAGED in page.inner_text("#skipped")
    assert CLASSES[1] in page.inner_text("#neighbours")
    assert page.locator("script, iframe, object, body b, body i, [onerror], [onload]").count() == 0


@pytest.mark.parametrize("width", [NARROW, 360, WIDE])
def test_nothing_reaches_beyond_the_window(opened: Callable[..., Page], width: int) -> None:
    page = opened(width)
    page.evaluate("() => document.querySelectorAll('details').forEach(details => { details.open = true; })")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    assert page.evaluate(TOO_WIDE) == []
    if width >= NARROW:
        assert page.evaluate(SCROLLING_TABLES) == 0


def test_all_text_is_readable_in_light_and_dark(opened: Callable[..., Page]) -> None:
    backgrounds = {}
    for scheme in ("light", "dark"):
        texts = opened(WIDE, scheme).evaluate(COLOURED_TEXT)
        assert len(texts) > 200
        faint = {(text, colour, behind) for text, colour, behind in texts if contrast(colour, behind) < 4.5}
        assert not faint, scheme
        backgrounds[scheme] = luminance(texts[0][2])
    assert backgrounds["light"] > 0.8
    assert backgrounds["dark"] < 0.05


def test_paper_is_white_for_readers_of_the_dark_page_too(opened: Callable[..., Page]) -> None:
    page = opened(WIDE, "dark")
    page.emulate_media(media="print", color_scheme="dark")
    texts = page.evaluate(COLOURED_TEXT)
    assert {luminance(behind) for _, _, behind in texts} == {1.0}
    assert not {text for text, colour, behind in texts if contrast(colour, behind) < 4.5}


def test_pictures_have_words_and_headings_are_in_order(opened: Callable[..., Page]) -> None:
    page = opened()
    unsaid = "() => [...document.images].filter(image => image.alt.length < 8).map(image => image.outerHTML)"
    assert page.evaluate(unsaid) == []
    assert page.locator("figure:not([aria-label])").count() == 0
    levels = page.evaluate("() => [...document.querySelectorAll('h1,h2,h3,h4')].map(each => +each.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_links_lead_to_places_on_the_page(opened: Callable[..., Page]) -> None:
    page = opened()
    places = page.evaluate("() => [...document.querySelectorAll('a')].map(link => link.getAttribute('href'))")
    assert len(places) >= 9
    assert [place for place in places if page.locator(place).count() != 1] == []


def contrast(one: str, other: str) -> float:
    """WCAG 2's ratio of two opaque colours."""
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    """WCAG 2's relative luminance of `rgb(r, g, b)`."""
    found = re.fullmatch(r"rgb\((\d+), (\d+), (\d+)\)", colour)
    assert found, colour
    parts = [int(each) / 255 for each in found.groups()]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

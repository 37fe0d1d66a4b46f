"""Draws docs/images/report.png, the top of a run's report, with Playwright and Debian's Chromium.

make demo
python docs/make_report_picture.py runs/demo
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

import patchmix

WIDTH, ROWS = 1000, 4  # pixels; rows of neighbours that are in the picture, with their heading
PICTURE = Path(__file__).parent / "images" / "report.png"


def main() -> None:
    """Make the report and the picture of it."""
    page_file = patchmix.report(sys.argv[1]).resolve()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light")
        page.goto(page_file.as_uri())
        row = page.locator(".found").nth(ROWS - 1).bounding_box()
        assert row is not None, "the report has no neighbours"
        height = row["y"] + row["height"] + 12
        content = page.screenshot(full_page=True, clip={"x": 0, "y": 0, "width": WIDTH, "height": height})
        browser.close()
    # 256 colours are enough for text, and a third of the bytes.
    Image.open(io.BytesIO(content)).convert("RGB").quantize(256).save(PICTURE, optimize=True)
    print(f"{PICTURE}: {PICTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()

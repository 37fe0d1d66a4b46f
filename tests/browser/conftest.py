"""Debian's Chromium, driven by Playwright, whose own browsers are not needed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A browser without a window; skips where there is no Chromium, and fails there in CI."""
    path = shutil.which("chromium")
    if path is None:
        say = pytest.fail if os.environ.get("CI", "").lower() in ("1", "true") else pytest.skip
        say("needs Chromium (Debian: apt install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()

"""What all tests share: one thread a process, and the development data that only some machines have."""

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# Before torch is imported, and inherited by the processes that tests start: tests run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder `../shared/data`; skips where it is absent, and fails there in CI."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs {SHARED_DATA}, which only development machines have")
    return SHARED_DATA


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "shared_data" in getattr(item, "fixturenames", ()):
            item.add_marker("shared_data")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    in_ci = os.environ.get("CI", "").lower() in ("1", "true")
    if in_ci and report.skipped and item.get_closest_marker("shared_data"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, which is a failure in CI: {report.longrepr}"
    return report


# These machines are slow and shared: how long an example takes says nothing.
hypothesis.settings.register_profile("patchmix", deadline=None)
hypothesis.settings.load_profile("patchmix")

"""Named parts of the code: what is counted where, and that nothing is while nobody measures."""

from __future__ import annotations

import pytest

from patchmix import timing
from patchmix.timing import measured, part


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.seconds)

    def wait(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_part_counts_for_itself_only(clock: Clock) -> None:
    with measured() as timings:
        clock.wait(16)  # in no part
        with part("outer"):
            clock.wait(1)
            with part("inner"):
                clock.wait(2)
                with part("innermost"):
                    clock.wait(4)
            clock.wait(8)
    assert timings.seconds == {"outer": 9, "inner": 2, "innermost": 4}


def test_parts_of_one_name_add_up_in_the_order_of_their_first_end(clock: Clock) -> None:
    with measured() as timings:
        for name, seconds in (("forward", 1), ("backward", 2), ("forward", 4)):
            with part(name):
                clock.wait(seconds)
    assert list(timings.seconds.items()) == [("forward", 5), ("backward", 2)]


def test_a_part_inside_itself_is_not_counted_twice(clock: Clock) -> None:
    with measured() as timings, part("loss"):
        clock.wait(1)
        with part("loss"):
            clock.wait(2)
    assert timings.seconds == {"loss": 3}


def test_nothing_is_counted_before_and_after_a_measurement(clock: Clock) -> None:
    with part("before"):
        clock.wait(1)
    with measured() as timings, part("inside"):
        clock.wait(1)
    with part("after"):
        clock.wait(1)
    assert timings.seconds == {"inside": 1}


def test_a_measurement_inside_another_has_its_own_parts(clock: Clock) -> None:
    with measured() as outer:
        with measured() as inner, part("views"):
            clock.wait(1)
        with part("loss"):
            clock.wait(2)
    assert (inner.seconds, outer.seconds) == ({"views": 1}, {"loss": 2})


def test_a_part_that_began_before_the_measurement_is_left_out(clock: Clock) -> None:
    with part("early"), measured() as timings, part("inside"):
        clock.wait(1)
    assert timings.seconds == {"inside": 1}


def test_an_error_ends_parts_and_measurement(clock: Clock) -> None:
    def fail() -> None:
        with part("loss"):
            clock.wait(3)
            raise KeyError

    with measured() as timings, pytest.raises(KeyError):
        fail()
    with part("later"):
        clock.wait(1)
    assert timings.seconds == {"loss": 3}

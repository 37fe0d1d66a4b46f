"""Seconds a step, from the times at which steps of a short run were seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from patchmix.comparing.processes import Task
from patchmix.comparing.settings import make_settings
from patchmix.comparing.trials import LEAST_SECONDS, MOST_SECONDS, Trial, make_trials
from patchmix.config import Config
from patchmix.errors import RunError

SETTINGS = make_settings(Config(), ("patchmix", "moco-v3"), {}, {})


def trial(wanted: float = 1.0) -> Trial:
    return Trial(SETTINGS[0], Path("trials"), wanted)


def test_the_first_step_seen_does_not_count() -> None:
    one = trial()
    one.seen = [(0.0, 1), (10.0, 2), (11.0, 4), (14.0, 10)]
    assert one.seconds_per_step() == 0.5  # steps 3 to 10 took 4 s


def test_it_is_enough_when_newer_steps_have_been_seen_for_so_long() -> None:
    one, task = trial(wanted=0.0), Task("trial", [], Path("log"), Path("metrics"), 0)
    assert not one.is_enough(task)  # no step yet
    for step, enough in ((1, False), (1, False), (2, False), (2, False), (3, True)):
        task.record = {"step": step}
        assert one.is_enough(task) is enough
    assert [step for _, step in one.seen] == [1, 2, 3]


def test_a_trial_that_ended_too_soon_says_where_to_look() -> None:
    with pytest.raises(RunError, match=r"the trial of patchmix ended too soon: see trials/patchmix.log"):
        trial().seconds_per_step()


def test_only_what_has_not_been_timed_is_tried_for_a_part_of_the_budget() -> None:
    (one,) = make_trials(SETTINGS, {"patchmix": 0.5}, Path("trials"), 60.0)
    assert (one.setting.name, one.wanted) == ("moco-v3", 6.0)
    assert make_trials(SETTINGS[:1], {}, Path("trials"), 1.0)[0].wanted == LEAST_SECONDS
    assert make_trials(SETTINGS[:1], {}, Path("trials"), 1e6)[0].wanted == MOST_SECONDS

"""Ctrl-C is said as such, also where it came up as another error."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from patchmix import cli
from patchmix.ctrl_c import comes_of_ctrl_c, noticing_ctrl_c
from patchmix.errors import RunError

# A command that is cut short where KeyboardInterrupt is swallowed, as some imports do, and fails because of it later.
SWALLOWING = """
import dataclasses, os, signal, sys, time
from patchmix import cli

def run(given):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    except KeyboardInterrupt:
        pass
    raise RecursionError("maximum recursion depth exceeded")

signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may have it ignored
cli.COMMANDS["recipes"] = dataclasses.replace(cli.COMMANDS["recipes"], run=run)
sys.exit(cli.main(["recipes"]))
"""


def raised(*errors: BaseException, handled: bool = True) -> BaseException:
    """The last of these errors, each raised while the one before was handled, or because of it."""
    before: BaseException | None = None
    for error in errors:
        if handled:
            error.__context__ = before
        else:
            error.__cause__, error.__suppress_context__ = before, True
        before = error
    assert before is not None
    return before


def test_ctrl_c_that_something_swallowed_is_still_said() -> None:
    done = subprocess.run([sys.executable, "-c", SWALLOWING], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "patchmix: stopped\n")


@pytest.mark.parametrize("handled", [True, False])
def test_an_error_that_ctrl_c_led_to_is_ctrl_c(handled: bool, capsys: pytest.CaptureFixture[str]) -> None:
    error = raised(KeyboardInterrupt(), ImportError("half a module"), RunError("a worker died"), handled=handled)
    assert cli.exit_code(error) == 130
    assert capsys.readouterr().err == "patchmix: stopped\n"


def test_other_errors_are_not() -> None:
    one = raised(ImportError("half a module"), RunError("a worker died"))
    one.__cause__ = one.__context__
    assert not comes_of_ctrl_c(one)
    circle = ValueError("a")
    circle.__context__ = raised(KeyError("b"))
    circle.__context__.__context__ = circle
    assert not comes_of_ctrl_c(circle)


def test_the_handler_before_is_there_again() -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with pytest.raises(KeyboardInterrupt), noticing_ctrl_c() as noticed:
            signal.raise_signal(signal.SIGINT)
        assert noticed
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with noticing_ctrl_c() as noticed:
            signal.raise_signal(signal.SIGINT)
        assert not noticed
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)

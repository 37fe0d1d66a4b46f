"""Tab completion for shells: a script that shtab makes of the command line's parser."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

import shtab

from patchmix import recipes
from patchmix.config.options import Option, nearest
from patchmix.errors import UserError
from patchmix.parsing import Command, command_line

FOLDERS = ("data.root", "output")
FILES = ("config", "checkpoint")
SHELLS = ("bash", "zsh")  # shtab's script for tcsh leaves the options of commands out


def completion_script(commands: Mapping[str, Command], shell: str) -> str:
    """The script that completes `patchmix` in bash or zsh: commands, options and the values there are.

    Raises:
        UserError: another shell.
    """
    if shell not in SHELLS:
        raise UserError(f"there is no completion for {shell}{nearest(shell, SHELLS)} (shells: {', '.join(SHELLS)})")
    parser = command_line(commands)
    for name, subparser in _subparsers(parser):
        options = commands[name].options
        for action in subparser._actions:
            option = options.get(action.dest)
            if option is not None:
                _describe(action, option)
            elif action.dest == "show":
                action.choices = ["show", *(each.name for each in recipes.list_recipes())]
            elif action.dest == "shell":
                action.choices = list(SHELLS)
            elif not action.option_strings:
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]  # shtab's own attribute
    return str(shtab.complete(parser, shell))


def _subparsers(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action._name_parser_map.items()


def _describe(action: Any, option: Option) -> None:
    """Tell shtab what may come after an option; argparse itself must not check it (`options.coerce` does)."""
    if option.name == "recipe":
        action.choices = [each.name for each in recipes.list_recipes()]
    elif option.suggestions:
        action.choices = list(option.suggestions)
    elif option.value_type is bool:
        action.choices = ["true", "false"]
    elif option.name in FOLDERS:
        action.complete = shtab.DIRECTORY
    elif option.name in FILES:
        action.complete = shtab.FILE

"""From the words of a command line to {option: text}, and the help screens, by jsonargparse.

Values stay text here; `options.coerce` reads them, as it reads YAML files, so there is one set of messages.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

import patchmix
from patchmix.config import Config, EvalConfig, KnnConfig
from patchmix.config.options import (
    Checked,
    Option,
    all_options,
    coerce,
    nearest,
    own_options,
    sections,
    shown,
)
from patchmix.errors import UserError

LISTS = """\
Values are written as in YAML; null takes an option back to nothing: --data.limit null
A list is several values, or one in brackets: {example}
"""
PRECEDENCE = "Precedence: defaults < --recipe < --config < command line\n"
RUN_DATA = "Where --checkpoint is a run, data options that are not given are the run's\n"
REFERENCE = "What each option accepts: docs/configuration.md"


@dataclass(frozen=True)
class Command:
    """A command: its help, what it calls, the config its options set, and arguments beside these."""

    help: str
    usage: str
    run: Callable[[dict[str, Any]], int]
    config: type[Checked] | None = None
    extras: tuple[Option, ...] = ()
    positional: tuple[str, str | None, str] | None = None  # name, nargs, help

    @property
    def options(self) -> dict[str, Option]:
        """Every --option by name."""
        return {each.name: each for each in self.extras} | (all_options(self.config) if self.config else {})


def parse(commands: Mapping[str, Command], argv: Sequence[str]) -> tuple[str | None, dict[str, Any]]:
    """The command's name and what was given for it; (None, {}) where help was printed instead.

    Raises UserError on an unknown command or option, and SystemExit after --help and --version.
    """
    if not argv:
        command_line(commands).print_help()
        return None, {}
    name = argv[0]
    if name in ("-h", "--help", "--version"):
        command_line(commands).parse_args([name])
    if name not in commands:
        wrong = f"{name} needs a command before it" if name.startswith("-") else f"there is no command {name}"
        raise UserError(f"{wrong}{nearest(name, commands)} (see patchmix --help)")
    options, extras = commands[name].options, commands[name].extras
    for word in argv[1:]:
        option = word[2:].partition("=")[0]
        if word.startswith("--") and option not in {*options, "help"}:
            near = nearest(option, options, prefix="--")
            raise UserError(f"{name} has no option --{option}{near} (see patchmix {name} --help)")
    try:
        given = command_line(commands).parse_args(argv, defaults=False).get(name)
    except _Mistake as mistake:
        message = str(mistake).removeprefix("argument ").replace(f"{name}.", "")
        if message.startswith("unrecognized arguments: "):
            message += _meant(options, message.split()[2])
        raise UserError(f"{name}: {message} (see patchmix {name} --help)") from None
    flat = {key: _text(options.get(key), value) for key, value in given.as_flat().__dict__.items()}
    return name, flat | {each.name: coerce(each, flat[each.name]) for each in extras if each.name in flat}


def _meant(options: Mapping[str, Option], word: str) -> str:
    """The option that a bare word was probably given for."""
    for name in ("checkpoint", "data.root"):
        if name in options:
            return f"; did you mean --{name} {word}?"
    return ""


def _text(option: Option | None, value: Any) -> Any:
    """The YAML text of an option's words: several are a list, none (after a switch) is true."""
    if option and option.value_type is bool:
        return value or "true"
    if option and option.is_list:
        return value[0] if value[0] == "null" or value[0].startswith("[") else f"[{', '.join(value)}]"
    return value


class _Mistake(Exception):
    """What argparse has to say, before it is put in our form."""


class _Parser(ArgumentParser):
    """jsonargparse's parser, with one line per error in place of a flood of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise _Mistake(message)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str, **settings: Any) -> None:
        super().__init__(prog, **settings | {"max_help_position": 32})


def command_line(commands: Mapping[str, Command]) -> _Parser:
    """The parser of all commands."""
    top = _Parser(
        prog="patchmix",
        usage="patchmix COMMAND [options]",
        description="Pre-train Vision Transformers without labels by PatchMix; measure what they learned.",
        epilog="Begin with: patchmix pretrain --recipe demo\nYour own images: patchmix data FOLDER\n"
        "More about a command: patchmix COMMAND --help",
        version=patchmix.__version__,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    added = top.add_subcommands(title="commands", description=None, metavar="COMMAND", required=False)
    for name, command in commands.items():
        added.add_subcommand(name, _command_parser(name, command), help=command.help)
    return top


def _list_example(config: type[Checked] | None) -> str:
    if config is KnnConfig:
        return "--k 10 20  or  --k [10,20]"
    if config is Config:
        return "--views.global_scale 0.2 1.0  or  --views.global_scale [0.2,1.0]"
    return "--data.mean 0.5 0.5 0.5  or  --data.mean [0.5,0.5,0.5]"


def _command_parser(name: str, command: Command) -> _Parser:
    lists = [each for each, option in command.options.items() if each != "data.mean" and option.is_list]
    epilog = LISTS.format(example=_list_example(command.config)) if lists else ""
    if command.config:
        epilog += (RUN_DATA if issubclass(command.config, EvalConfig) else PRECEDENCE) + REFERENCE
    parser = _Parser(
        prog=f"patchmix {name}",
        usage=f"patchmix {name} {command.usage}",
        description=command.help[0].upper() + command.help[1:] + ".",
        epilog=epilog,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    if command.positional:
        positional, nargs, text = command.positional
        parser.add_argument(positional, nargs=nargs, type=str, metavar=positional.upper(), help=text)
    for option in command.extras:
        _add(parser, option)
    if command.config:
        for option in own_options(command.config).values():
            _add(parser, option)
        for title, section in sections(command.config).items():
            group = parser.add_argument_group(title, section.__doc__)
            for option in own_options(section).values():
                _add(group, option)
    return parser


def _add(parser: Any, option: Option) -> None:
    words = {int: "N", float: "X", bool: "true|false", str: "TEXT"}
    settings: dict[str, Any] = {}
    if option.value_type is bool:
        settings = {"nargs": "?"}  # a bare --run.deterministic means true
    elif option.is_list:
        settings = {"nargs": "+"}
    parser.add_argument(
        f"--{option.name}",
        type=str,
        metavar="|".join(map(str, option.suggestions)) or words.get(option.value_type, "X"),
        help=help_text(option).replace("%", "%%"),
        **settings,
    )


def help_text(option: Option) -> str:
    """The help of an option with its default, which a note on null already tells what it means."""
    if option.default is None and "(null: " in option.help:
        return option.help.replace("(null: ", "(default null: ")
    if option.name == "checkpoint":
        return f"{option.help} (required)"
    default = option.default if isinstance(option.default, str) else shown(option.default)
    if option.is_list and option.choices:
        default = " ".join(option.default)
    return f"{option.help} (default: {default})"

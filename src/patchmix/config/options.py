"""What an option is: its type in words, the values it accepts, the names nearest to a wrong one.

The dataclasses declare options with this vocabulary; command line, YAML files and Python calls are all read
by `flatten` → `coerce` → `build`, so that a mistake gets the same message wherever it was made. No torch.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import types
import typing
from argparse import ArgumentError
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin

from patchmix.errors import UserError


@dataclass(frozen=True)
class Accept:
    """A bound on a value, and how it is said after the type: 'a whole number' + 'above 0'.

    Where `names` are some of the values, `text` says all that is accepted and stands alone.
    """

    test: Callable[[Any], bool]
    text: str
    names: tuple[str, ...] = ()


POSITIVE = Accept(lambda value: 0 < value < math.inf, "above 0")
NON_NEGATIVE = Accept(lambda value: 0 <= value < math.inf, "of 0 or more")
FRACTION = Accept(lambda value: 0 <= value <= 1, "from 0 to 1")
BELOW_ONE = Accept(lambda value: 0 <= value < 1, "from 0 to below 1")
AT_LEAST_TWO = Accept(lambda value: value >= 2, "of 2 or more")
RANGE = Accept(lambda value: 0 < value[0] <= value[1] < math.inf, "with 0 < low <= high")
FRACTIONS = Accept(lambda value: all(0 <= item <= 1 for item in value), "from 0 to 1")
POSITIVES = Accept(lambda value: bool(value) and all(0 < item < math.inf for item in value), "above 0")


def option(default: Any, help: str, accept: Accept | None = None) -> Any:
    """A dataclass field with the help text that `--help` shows, and a bound that construction checks."""
    return field(default=default, metadata={"help": help, "accept": accept})


def require(accepted: bool, name: str, value: object, expected: str) -> None:
    """Raise a UserError that names the option, its value and what would be accepted."""
    if not accepted:
        raise UserError(f"{name} = {shown(value)} is not accepted: {expected}")


def shown(value: object) -> str:
    """A value as a message shows it: as in YAML where that differs from Python."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str) and value.startswith("["):
        return value  # a list from the command line
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value - float(f"{value:.4g}")) < 1e-9 * abs(value) else repr(value)
    return repr(list(value) if isinstance(value, tuple) else value)


@dataclass(frozen=True)
class Option:
    """One option of a command: the name is `section.key`, the type is that of the dataclass field."""

    name: str
    type: Any
    default: Any
    help: str
    accept: Accept | None = None

    @property
    def nullable(self) -> bool:
        """Whether null is a value of this option."""
        return type(None) in get_args(self.type)

    @property
    def value_type(self) -> Any:
        """The type without null."""
        rest = [part for part in get_args(self.type) if part is not type(None)]
        return rest[0] if self.nullable and get_origin(self.type) in (typing.Union, types.UnionType) else self.type

    @property
    def is_list(self) -> bool:
        """Whether the value is a list, on the command line several values after the name."""
        return get_origin(self.value_type) is tuple

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values of a Literal type, or of a list of them, else ()."""
        kind = get_args(self.value_type)[0] if self.is_list else self.value_type
        return get_args(kind) if get_origin(kind) is Literal else ()

    @property
    def suggestions(self) -> tuple[Any, ...]:
        """The values to offer: the choices, or names among values of which there are more."""
        return self.choices or (self.accept.names if self.accept else ())

    def describe(self) -> str:
        """What is accepted, in words: 'a whole number above 0, or null'."""
        if self.accept and self.accept.names:
            return self.accept.text + (", or null" if self.nullable else "")
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
        if self.choices:
            text = ("a list of " if self.is_list else "one of ") + ", ".join(map(str, self.choices))
        elif self.is_list:
            parts = get_args(self.value_type)
            many = {int: "whole numbers", str: "texts"}.get(parts[0], "numbers")
            text = f"a list of {many}" if parts[-1] is Ellipsis else f"{len(parts)} {many}"
        else:
            text = words[self.value_type]
        if self.accept:
            text += " " + self.accept.text
        return text + (", or null" if self.nullable else "")


class Checked:
    """Base of the config dataclasses: construction checks every option's bound."""

    section: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for key, each in own_options(type(self)).items():
            value = getattr(self, key)
            if each.accept and value is not None:
                require(each.accept.test(value), each.name, value, each.describe())


def own_options(config: type[Checked]) -> dict[str, Option]:
    """The options that a dataclass declares itself, by field name."""
    hints = typing.get_type_hints(config)
    prefix = f"{config.section}." if config.section else ""
    return {
        each.name: Option(prefix + each.name, hints[each.name], each.default, **each.metadata)
        for each in dataclasses.fields(config)  # type: ignore[arg-type]  # every Checked is a dataclass
        if "help" in each.metadata
    }


def sections(config: type[Checked]) -> dict[str, type[Checked]]:
    """The nested dataclasses of a config, by section name."""
    hints = typing.get_type_hints(config)
    return {
        each.name: hints[each.name]
        for each in dataclasses.fields(config)  # type: ignore[arg-type]  # every Checked is a dataclass
        if dataclasses.is_dataclass(hints[each.name])
    }


def all_options(config: type[Checked]) -> dict[str, Option]:
    """Every option of a config by its full name, the sections' ones after its own."""
    found = {each.name: each for each in own_options(config).values()}
    for section in sections(config).values():
        found |= {each.name: each for each in own_options(section).values()}
    return found


def nearest(name: str, names: Iterable[str], prefix: str = "") -> str:
    """'; did you mean X?' for the valid name nearest to a wrong one, or '' if none is near.

    A right key without its section, or in a wrong one, finds its full name: `--lr` means `--optim.lr`.
    """
    names, wanted = list(names), name.replace("-", "_")
    key = wanted.rpartition(".")[2]
    same_key = [each for each in names if each.rpartition(".")[2] == key or each.startswith(f"{wanted}.")]
    close = same_key or difflib.get_close_matches(wanted, names, n=1)
    if not close:
        keys = {each.rpartition(".")[2]: each for each in names}
        close = [keys[each] for each in difflib.get_close_matches(key, keys, n=1, cutoff=0.7)]
    return f"; did you mean {prefix}{close[0]}?" if close else ""


def flatten(given: Mapping[Any, Any], config: type[Checked]) -> dict[str, Any]:
    """{'section.key': value} from nested or dotted keys; UserError on a key that is no option."""
    flat: dict[str, Any] = {}
    options = all_options(config)
    for key, value in given.items():
        if key in sections(config):
            if isinstance(value, Mapping):
                dotted = {f"{key}.{inner}": item for inner, item in value.items()}
                flat |= flatten(dotted, config)
            elif value is not None:  # an empty section, all of it commented out, is fine
                raise UserError(f"{key} = {shown(value)} is not accepted: {key} is a section of options")
        elif key in options:
            flat[key] = value
        else:
            near = nearest(str(key), [*options, *sections(config)])
            raise UserError(f"there is no option {key!s}{near}")
    return flat


def coerce(each: Option, value: Any) -> Any:
    """The value in the option's type, read as YAML where it is text; UserError if it cannot be."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False, add_help=False)
    parser.add_argument("--value", type=each.type)
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if each.is_list and isinstance(value, (int, float)) and not isinstance(value, bool):
        value = [value]  # one number is a list of one
    try:
        result = parser.parse_object({"value": value}, defaults=False).value
    except ArgumentError:
        require(False, each.name, value, each.describe())
    # jsonargparse lets null pass for every type
    require(result is not None or each.nullable, each.name, value, each.describe())
    if each.accept and each.accept.names and result is not None:
        require(each.accept.test(result), each.name, value, each.describe())
    return result


Built = TypeVar("Built", bound=Checked)


def build(config: type[Built], flat: Mapping[str, Any]) -> Built:
    """The dataclass from {'section.key': value}; what is not given keeps its default."""
    nested: dict[str, Any] = {key: flat[key] for key in own_options(config) if key in flat}
    for name, section in sections(config).items():
        own = own_options(section).items()
        nested[name] = section(**{key: flat[each.name] for key, each in own if each.name in flat})
    return config(**nested)

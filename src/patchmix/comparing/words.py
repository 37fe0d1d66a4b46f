"""What was asked for, read: methods, seeds, variants and values to try, from text or from Python. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from patchmix.config import Config, MethodConfig
from patchmix.config.options import all_options, coerce, nearest, own_options, shown
from patchmix.errors import UserError

REPEATED = {"--variant": "; ", "--vary": " "}
"""Options that may be given several times, each with several words, and what their words are joined by."""

NAME = re.compile(r"[\w.+-]+")  # also a folder's name, on any system
OWN_OPTIONS = {
    "output": "compare gives each run its own",
    "seed": "give --seeds",
    "max_steps": "compare runs to the end: set optim.epochs",
}
METHODS = own_options(MethodConfig)["name"].choices


def gather(argv: Sequence[str]) -> list[str]:
    """The words of a command line, in which each option of REPEATED is there once, its words in one text.

    `--vary a=1,2 --vary b=3` becomes `--vary=a=1,2 b=3`, as one word.
    """
    rest: list[str] = []
    found: dict[str, list[list[str]]] = {}
    into = rest
    for word in argv:
        name, given, first = word.partition("=")
        if name in REPEATED:
            found.setdefault(name, []).append([first] if given else [])
            into = found[name][-1]
        elif word.startswith("--"):
            rest.append(word)
            into = rest
        else:
            into.append(word)
    joined = [f"{name}={REPEATED[name].join(' '.join(words) for words in all)}" for name, all in found.items()]
    return [*rest[:1], *joined, *rest[1:]]


def read_methods(given: str | Iterable[str]) -> tuple[str, ...]:
    """Method names, each once; UserError with those there are."""
    names = tuple(_parts(given))
    for name in names:
        if name not in METHODS:
            raise UserError(
                f"methods: there is no method {name!r}{nearest(name, METHODS)} (methods: {', '.join(METHODS)}; "
                "other settings: --variant NAME section.option=value)"
            )
    if not names or len(set(names)) < len(names):
        raise UserError(f"methods = {given!r} is not accepted: names of methods, each once: patchmix,moco-v3")
    return names


def read_seeds(given: str | int | Iterable[int]) -> tuple[int, ...]:
    """Seeds: a number counts them from 0 on, a list (a comma is enough) names them. UserError."""
    if isinstance(given, str) and "," not in given and not given.startswith("["):
        given = int(given) if given.strip().isdigit() else given
    expected = "how many seeds (3), or different ones from 0 on (0,1,5)"
    if isinstance(given, int):
        seeds = list(range(given))
    else:
        seeds = [int(each) if str(each).strip().isdigit() else -1 for each in _parts(given)]
    if not seeds or min(seeds) < 0 or max(seeds) >= 2**32 or len(set(seeds)) < len(seeds):
        raise UserError(f"seeds = {shown(given)} is not accepted: {expected}")
    return tuple(seeds)


def read_variants(given: str | Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """{name: {option: value}} from `NAME option=value option=value; NAME …`. UserError."""
    if isinstance(given, Mapping):
        pairs = [(name, dict(options)) for name, options in given.items()]
    else:
        pairs = [_variant(text) for text in given.split("; ")]
    found: dict[str, dict[str, Any]] = {}
    for name, options in pairs:
        if not NAME.fullmatch(name):
            raise UserError(f"variant {name!r} is not accepted: a name of letters, digits and . + - _ goes first")
        if name in found:
            raise UserError(f"variant {name} is there twice: give each a name of its own")
        if not options:
            raise UserError(
                f"variant {name} sets nothing: its options follow without dashes, --variant {name} method.num_mix=3"
            )
        found[name] = {key: _value(f"variant {name}", key, value) for key, value in options.items()}
    return found


def read_vary(given: str | Mapping[str, Sequence[Any]]) -> dict[str, tuple[Any, ...]]:
    """{option: values} from `option=value,value option=value,value`. UserError."""
    pairs = list(given.items()) if isinstance(given, Mapping) else [_varied(word) for word in given.split()]
    found: dict[str, tuple[Any, ...]] = {}
    for key, values in pairs:
        if key in found:
            raise UserError(f"vary: {key} is there twice: give all its values in one list")
        found[key] = tuple(_value("vary", key, value) for value in values)
        if not values or any(found[key].count(value) > 1 for value in found[key]):
            raise UserError(f"vary: {key} needs different values: --vary {key}=1,2,3")
    return found


def _parts(given: str | Iterable[Any]) -> list[Any]:
    """The parts of a list: of `a,b`, `[a, b]`, or of anything that can be gone through."""
    if not isinstance(given, str):
        return list(given)
    return [part.strip() for part in given.removeprefix("[").removesuffix("]").split(",") if part.strip()]


def _variant(text: str) -> tuple[str, dict[str, Any]]:
    name, *words = text.split() or [""]
    pairs = [word.partition("=") for word in words]
    for key, equals, _ in pairs:
        if not equals:
            raise UserError(f"variant {name}: {key!r} is not section.option=value (and a name has no spaces)")
    return name.removesuffix(":"), {key: value for key, _, value in pairs}


def _varied(word: str) -> tuple[str, list[str]]:
    key, equals, values = word.partition("=")
    if not equals:
        raise UserError(f"vary: {word!r} is not section.option=value,value: --vary method.num_mix=1,2,3")
    return key, re.findall(r"\[[^\]]*\]|[^,]+", values)  # commas inside of brackets belong to a value


def _value(where: str, key: str, value: Any) -> Any:
    """The value in its option's type; UserError that says where."""
    options = all_options(Config)
    if key in OWN_OPTIONS:
        raise UserError(f"{where}: {key} cannot be set: {OWN_OPTIONS[key]}")
    if key not in options:
        raise UserError(f"{where}: there is no option {key}{nearest(key, options)}")
    try:
        return coerce(options[key], value)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None

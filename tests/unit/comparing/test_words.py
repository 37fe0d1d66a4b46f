"""What `patchmix compare` is asked, from the command line and from Python."""

from __future__ import annotations

from typing import Any

import pytest

from patchmix.comparing.words import gather, read_methods, read_seeds, read_variants, read_vary
from patchmix.errors import UserError


@pytest.mark.parametrize(
    ("line", "gathered"),
    [
        ("compare --recipe demo", ["compare", "--recipe", "demo"]),
        ("compare --vary a.b=1,2 --seeds 3", ["compare", "--vary=a.b=1,2", "--seeds", "3"]),
        ("compare --vary a.b=1 c.d=2 --vary=e.f=3", ["compare", "--vary=a.b=1 c.d=2 e.f=3"]),
        (
            "compare --variant x a.b=1 c.d=2 --dry_run --variant y a.b=3",
            ["compare", "--variant=x a.b=1 c.d=2; y a.b=3", "--dry_run"],
        ),
        ("compare --evaluations knn probe --output d", ["compare", "--evaluations", "knn", "probe", "--output", "d"]),
    ],
)
def test_options_that_are_given_several_times_become_one_word(line: str, gathered: list[str]) -> None:
    assert gather(line.split()) == gathered


@pytest.mark.parametrize(
    ("given", "seeds"),
    [("3", (0, 1, 2)), (2, (0, 1)), ("0,1,5", (0, 1, 5)), ("5,", (5,)), ("[4]", (4,)), ((7, 2), (7, 2))],
)
def test_seeds_are_a_number_or_a_list(given: Any, seeds: tuple[int, ...]) -> None:
    assert read_seeds(given) == seeds


@pytest.mark.parametrize("given", ["0", 0, "", "-1", "1,1", "a", "1,b", (), (-1,), (1.5,), (2**32,)])
def test_no_seeds_or_seeds_twice_are_refused(given: Any) -> None:
    with pytest.raises(UserError, match=r"seeds? = .* is not accepted"):
        read_seeds(given)


def test_methods_are_names_of_methods() -> None:
    assert read_methods("patchmix,moco-v3") == read_methods(["patchmix", "moco-v3"]) == ("patchmix", "moco-v3")
    with pytest.raises(UserError, match="there is no method 'moco_v3'; did you mean moco-v3"):
        read_methods("moco_v3")
    with pytest.raises(UserError, match="each once"):
        read_methods("patchmix,patchmix")
    with pytest.raises(UserError, match="is not accepted"):
        read_methods("")


def test_values_to_try_are_read_as_in_yaml() -> None:
    text = "method.num_mix=1,2 data.limit=null,500 views.global_scale=[0.2,1.0],[0.4,1.0] model.drop_path=0.5"
    read = {
        "method.num_mix": (1, 2),
        "data.limit": (None, 500),
        "views.global_scale": ((0.2, 1.0), (0.4, 1.0)),
        "model.drop_path": (0.5,),
    }
    assert read_vary(text) == read
    assert read_vary(read) == read


def test_a_variant_is_a_name_and_its_options() -> None:
    read = {"a": {"method.name": "moco-v3", "views.local_size": 20}, "b.2": {"method.momentum": None}}
    assert read_variants("a method.name=moco-v3 views.local_size=20; b.2: method.momentum=null") == read
    assert read_variants(read) == read


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method.nummix=1", r"vary: there is no option method.nummix; did you mean method.num_mix"),
        ("method.num_mix", r"vary: 'method.num_mix' is not section.option=value"),
        ("method.num_mix=1,1", "needs different values"),
        ("method.num_mix=", "needs different values"),
        ("method.num_mix=two", r"vary: method.num_mix = 'two' is not accepted"),
        ("method.num_mix=1 method.num_mix=2", "is there twice"),
        ("seed=1,2", "seed cannot be set: give --seeds"),
        ("max_steps=5", "max_steps cannot be set"),
    ],
)
def test_a_mistake_in_vary_is_named(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_vary(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "variant a sets nothing"),
        ("method.num_mix=1", "variant 'method.num_mix=1' is not accepted"),
        ("../a method.num_mix=1", "is not accepted: a name of letters"),
        ("a num_mix=1", r"variant a: there is no option num_mix; did you mean method.num_mix"),
        ("a method.num_mix 1", "'method.num_mix' is not section.option=value"),
        ("a method.num_mix=1; a method.num_mix=2", "variant a is there twice"),
        ("", "is not accepted: a name"),
    ],
)
def test_a_mistake_in_a_variant_is_named(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_variants(text)

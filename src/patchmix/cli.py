"""The command line: parse, call one function, turn what it raises into one line and an exit code.

Imports no torch: what runs a command is imported when it runs, so that help and mistakes are instant.
(Over 300 lines: the table of all commands is one piece.)
Exit codes: 0 done, 2 the user can mend it, 1 anything else, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import errno
import importlib
import os
import select
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Literal

from patchmix import recipes
from patchmix.comparing.words import gather
from patchmix.config import (
    Config,
    DataConfig,
    EmbedConfig,
    EvalConfig,
    FewshotConfig,
    FinetuneConfig,
    KnnConfig,
    ProbeConfig,
    SimilarityConfig,
)
from patchmix.config.bench import BenchConfig
from patchmix.config.compare import CompareConfig
from patchmix.config.detection import DetectConfig
from patchmix.config.options import Option
from patchmix.ctrl_c import comes_of_ctrl_c, noticing_ctrl_c
from patchmix.environment import limit_spinning, program
from patchmix.errors import RunError, SaidElsewhereError, UserError
from patchmix.parsing import Command, parse
from patchmix.starting import choose_for, start


def _pretrain(given: dict[str, Any]) -> int:
    recipe, file = given.pop("recipe", None), given.pop("config", None)
    resume, show = given.pop("resume", False), given.pop("print_config", False)
    started = start(recipe, file, given, resume=resume)
    if show:
        for line in started.choices.text.splitlines() if started.choices else ():
            print(f"# {line}")
        print(recipes.dump(started.config), end="")
        return 0
    from patchmix.pretraining import pretrain

    return int(pretrain(started.config, resume=resume, recipe=started.recipe, choices=started.choices).exit_code)


def _bench(given: dict[str, Any]) -> int:
    from patchmix.benching.request import request

    asked = request(given.pop("recipe", None), given.pop("config", None), given)
    from patchmix.benching.command import bench

    bench(asked)
    return 0


def _compare(given: dict[str, Any]) -> int:
    from patchmix.comparing.request import request

    asked = request(given.pop("recipe", None), given.pop("config", None), given)
    from patchmix.comparing.command import compare

    content = compare(asked)
    if asked.options.dry_run:  # nothing ran that could have failed
        return 0
    return int(any(cell["status"] == "failed" for cell in content["cells"]))


def _evaluate(command: str, config: type[EvalConfig]) -> Callable[[dict[str, Any]], int]:
    """What runs an evaluation: the function of the command's name in the module of that name."""

    def run(given: dict[str, Any]) -> int:
        resolved = recipes.resolve_evaluation(config, given)
        module = importlib.import_module(f"patchmix.evaluation.{command}")
        getattr(module, command)(resolved)
        return 0

    return run


def _detect(given: dict[str, Any]) -> int:
    resolved = recipes.resolve_detection(given)
    from patchmix.transfer.detect import detect

    detect(resolved)
    return 0


def _results(given: dict[str, Any]) -> int:
    from patchmix.reporting.results_table import results

    results(given["runs"], given.get("format", "table"))
    return 0


def _report(given: dict[str, Any]) -> int:
    from patchmix.reporting import report

    print(f"The report is {report(given['run'])}")
    return 0


def _data(given: dict[str, Any]) -> int:
    from patchmix.data.survey_output import print_survey

    folder = given.pop("folder")
    print_survey(folder, **given)
    try:
        choices = choose_for(Config(data=DataConfig(root=folder)), {})
    except UserError as error:  # what there is has been said all the same
        print(f"\nNothing to train on: {error}")
        return 0
    print(f"\nRecipe folder would take:\n{choices.text}")
    print(f"Train:  {program()} pretrain --data.root {shlex.quote(folder)}")
    return 0


def _recipes(given: dict[str, Any]) -> int:
    words = given.get("show") or []
    if words:
        if words[0] != "show" or len(words) != 2:
            raise UserError(f"`patchmix recipes {' '.join(words)}` is not a command: recipes show NAME prints one")
        print(recipes.find_recipe(words[1]).text, end="")
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("recipe", "what", "data", "time"):
        table.add_column(heading, no_wrap=heading == "recipe")
    for each in recipes.list_recipes():
        table.add_row(each.name, each.what, each.data, each.time)
    Console().print(table)
    if any("*" in each.time for each in recipes.list_recipes()):
        print("\n* calculated, not measured: docs/recipes.md")
    print("\nStart one:  patchmix pretrain --recipe NAME\nRead one:   patchmix recipes show NAME")
    return 0


def _completion(given: dict[str, Any]) -> int:
    from patchmix.completion import completion_script

    print(completion_script(COMMANDS, given["shell"]))
    return 0


EVALUATION_USAGE = "--checkpoint RUN_OR_FILE [--data.name NAME] [--output DIR] [--section.option VALUE ...]"
EVALUATIONS: dict[str, tuple[str, type[EvalConfig]]] = {
    "knn": ("classify by nearest neighbours of frozen features", KnnConfig),
    "probe": ("train linear classifiers on frozen features", ProbeConfig),
    "fewshot": ("classify from a few labelled images per class", FewshotConfig),
    "finetune": ("train the whole network with labels, from a checkpoint or from scratch", FinetuneConfig),
    "similarity": ("compare pairs of images of one class with pairs of two, and draw some", SimilarityConfig),
    "embed": ("write the features of any images to a file", EmbedConfig),
}

COMMANDS = {
    "pretrain": Command(
        "train an encoder on images, without labels",
        "[--data.root FOLDER | --recipe NAME | --config FILE] [--output DIR] [--resume]\n"
        "                         [--section.option VALUE ...]",
        _pretrain,
        Config,
        (
            Option("recipe", str | None, None, "start from this recipe; `patchmix recipes` lists them"),
            Option("config", str | None, None, "a YAML file of options; they win over the recipe's"),
            Option("resume", bool, False, "go on with the run in --output from its newest checkpoint"),
            Option("print_config", bool, False, "print the config that results, and stop"),
        ),
    ),
    **{
        name: Command(what, EVALUATION_USAGE, _evaluate(name, config), config)
        for name, (what, config) in EVALUATIONS.items()
    },
    "detect": Command(
        "train an object detector on an encoder, and score it as COCO does",
        "--checkpoint RUN_OR_FILE --data.train DIR --data.train_annotations FILE\n"
        "                       --data.val DIR --data.val_annotations FILE [--output DIR] [--option VALUE ...]",
        _detect,
        DetectConfig,
    ),
    "results": Command(
        "show all evaluations of some runs beside the published numbers",
        "RUN [RUN ...] [--format table|markdown|csv|json]",
        _results,
        extras=(Option("format", Literal["table", "markdown", "csv", "json"], "table", "how the table is written"),),
        positional=("runs", "+", "run directories, or folders that an evaluation's --output named"),
    ),
    "report": Command("write a run's report page", "RUN", _report, positional=("run", None, "a run directory")),
    "data": Command(
        "say what a folder of images holds",
        "FOLDER [--images N] [--decode N] [--output DIR]",
        _data,
        extras=(
            Option("images", int, 20_000, "files to look at, evenly spaced if there are more"),
            Option("decode", int, 2000, "of these, images to decode: for statistics, and to find damage"),
            Option("output", str | None, None, "write survey.json, unreadable.tsv and duplicates.tsv there"),
        ),
        positional=("folder", None, "a folder of images, read as data.root is"),
    ),
    "bench": Command(
        "say what a training step costs here, and where the time goes",
        "[--recipe NAME | --config FILE | --data.root FOLDER] [--output FILE] [--steps N]\n"
        "                      [--section.option VALUE ...]",
        _bench,
        BenchConfig,
        (
            Option("recipe", str | None, None, "the recipe to measure (null: cifar10-cpu)"),
            Option("config", str | None, None, "a YAML file of options, or a run's config.yaml"),
        ),
    ),
    "compare": Command(
        "compare methods and settings at the same cost, over seeds",
        "[--recipe NAME | --config FILE | --data.root FOLDER] [--methods NAME,NAME]\n"
        "                        [--variant NAME section.option=VALUE ...] [--vary section.option=VALUE,VALUE ...]\n"
        "                        [--seeds N] [--output DIR] [--section.option VALUE ...]",
        _compare,
        CompareConfig,
        (
            Option("recipe", str | None, None, "the recipe that all start from; `patchmix recipes` lists them"),
            Option("config", str | None, None, "a YAML file of options, or a run's config.yaml"),
        ),
    ),
    "recipes": Command(
        "list the recipes, or print one: recipes show NAME",
        "[show NAME]",
        _recipes,
        positional=("show", "*", "'show NAME' prints that recipe; nothing lists them all"),
    ),
    "completion": Command(
        "print a script that completes commands and options by Tab",
        "bash|zsh",
        _completion,
        positional=("shell", None, "bash or zsh; try it with: source <(patchmix completion bash)"),
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    limit_spinning()
    with noticing_ctrl_c() as interrupted:
        try:
            code = _run(sys.argv[1:] if argv is None else argv)
            sys.stdout.flush()  # a closed pipe shows here, not in a traceback at the interpreter's end
            return code
        except BaseException as error:
            return exit_code(error, interrupted=bool(interrupted))


def _run(argv: Sequence[str]) -> int:
    try:
        name, given = parse(COMMANDS, gather(argv) if argv[:1] == ["compare"] else argv)
        return COMMANDS[name].run(given) if name else 0
    except SystemExit as stop:  # --help, --version, rich on a closed pipe
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        return _fail(str(stop.code), 1)  # a library that gives up with a text


def exit_code(error: BaseException, *, interrupted: bool = False) -> int:
    """The exit code for an error that ended a command, which Ctrl-C may have brought about; says it in one line."""
    debug = os.environ.get("PATCHMIX_DEBUG", "") not in ("", "0")
    if debug:
        traceback.print_exception(error)
    if interrupted or comes_of_ctrl_c(error):
        return _fail("stopped", 130, "")
    if isinstance(error, UserError):
        return _fail(str(error), 2)
    if isinstance(error, RunError):
        return _fail(str(error), 1)
    if isinstance(error, SaidElsewhereError):
        return error.exit_code
    if isinstance(error, BrokenPipeError) and _stdout_is_closed():
        return 1
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return _fail(f"{error.filename or 'a file'}: {error.strerror}; give a path that you may use", 2)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _fail(f"no space left on the disk ({error.filename or 'while writing'}); make room, go on", 1)
    package = os.path.dirname(__file__)
    frames = [each for each in traceback.extract_tb(error.__traceback__) if each.filename.startswith(package)]
    place = f" at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
    hint = "" if debug else "; PATCHMIX_DEBUG=1 shows the traceback"
    return _fail(f"{type(error).__name__}{place}: {error} (not foreseen, please report it{hint})", 1)


def _fail(message: str, code: int, kind: str = "error: ") -> int:
    print(f"patchmix: {kind}{' '.join(message.split())}", file=sys.stderr)
    return code


def _stdout_is_closed() -> bool:
    """Whether our own reader is gone (`patchmix recipes | head`), rather than some worker's pipe."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # errors are reported unasked
    closed = any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains
    return closed

"""The command line as a user meets it, in processes of its own where that matters."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import patchmix
from patchmix import cli
from patchmix.config import Config, FewshotConfig, KnnConfig
from patchmix.config.options import all_options
from patchmix.errors import RunError, UserError

HEAVY = ("torch", "timm", "lightning", "torchvision", "sklearn", "matplotlib")
PROBE = f"""
import sys
from patchmix.cli import main
code = main(sys.argv[1:])
loaded = [name for name in {HEAVY} if name in sys.modules]
assert not loaded, loaded
sys.exit(code)
"""


def patchmix_command(*words, program=("-m", "patchmix"), **settings):
    return subprocess.run([sys.executable, *program, *words], capture_output=True, text=True, **settings)


def light(*words):
    """A command line in a process that fails when it imports something heavy."""
    return patchmix_command(*words, program=("-c", PROBE))


@pytest.mark.parametrize("command", ["", *cli.COMMANDS])
def test_help_imports_nothing_heavy(command):
    result = light(*command.split(), "--help")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("usage: patchmix")
    assert result.stderr == ""


@pytest.mark.parametrize(("command", "config"), [("pretrain", Config), ("knn", KnnConfig), ("fewshot", FewshotConfig)])
def test_help_has_every_option_with_its_help_and_default(command, config, capsys):
    assert cli.main([command, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for option in all_options(config).values():
        assert f"--{option.name} " in shown
        assert option.help.split("(")[0].strip() in shown
    assert "(default: 0.1)" in shown
    assert "(default: null)" in shown or "(default null: " in shown


def test_no_words_print_the_help(capsys):
    assert cli.main([]) == 0
    assert "COMMAND" in capsys.readouterr().out


def test_the_version_is_the_packages(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"patchmix {patchmix.__version__}\n"


MISTAKES = [
    ("pretrian", "there is no command pretrian; did you mean pretrain?"),
    ("--seed 3", "--seed needs a command before it"),
    ("pretrain --epochs 3", "pretrain has no option --epochs; did you mean --optim.epochs?"),
    ("pretrain --data.nam=cifar10", "pretrain has no option --data.nam; did you mean --data.name?"),
    ("pretrain --data cifar10", "pretrain has no option --data; did you mean --data.name?"),
    ("pretrain --out x", "pretrain has no option --out; did you mean --output?"),
    ("pretrain --recipe dmo", "there is no recipe 'dmo'; did you mean demo?"),
    ("pretrain --recipe", "pretrain: --recipe: expected one argument"),
    ("pretrain photos", "pretrain: unrecognized arguments: photos; did you mean --data.root photos?"),
    ("knn runs/a", "did you mean --checkpoint runs/a?"),
    ("pretrain", "give --recipe NAME"),
    ("pretrain --config absent.yaml", "there is no config file absent.yaml"),
    ("pretrain --recipe demo --resume maybe", "resume = 'maybe' is not accepted: true or false"),
    ("pretrain --recipe demo --data.limit abc", "data.limit = 'abc' is not accepted: a whole number above 0"),
    ("pretrain --recipe demo --data.limit -3", "data.limit = -3 is not accepted: a whole number above 0"),
    ("pretrain --recipe demo --data.name mnist", "data.name = 'mnist' is not accepted: one of mnist5k, "),
    ("pretrain --recipe demo --views.ratio 1", "views.ratio = [1] is not accepted: 2 numbers"),
    ("pretrain --recipe demo --optim.lr nan", "optim.lr = 'nan' is not accepted: a number above 0"),
    ("pretrain --recipe demo --seed null", "seed = 'null' is not accepted: a whole number"),
    ("pretrain --output absent --resume", "nothing to resume: absent holds no run"),
    ("knn", "give --checkpoint"),
    ("knn --checkpoint absent --data.name cifar10", "there is no checkpoint absent"),
    ("fewshot --checkpoint timm:vit_tiny_patch16_224", "give --data.name"),
    ("report", "report: the following arguments are required: run"),
    ("recipes shwo demo", "recipes show NAME"),
    ("recipes show", "recipes show NAME"),
    ("recipes show dmo", "did you mean demo?"),
]


@pytest.mark.parametrize(("line", "message"), MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(line, message, capsys):
    assert cli.main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("patchmix: error: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_mistake_imports_nothing_heavy():
    result = light("pretrain", "--recipe", "demo", "--optim.epoch", "3")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "did you mean --optim.epochs?" in result.stderr


def printed_config(capsys, *words):
    assert cli.main(["pretrain", *words, "--print_config"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


def test_print_config_shows_what_results_without_running():
    result = light("pretrain", "--recipe", "demo", "--print_config")
    assert result.returncode == 0, result.stderr
    assert yaml.safe_load(result.stdout)["output"] == "runs/demo"


@pytest.mark.parametrize(
    "words",
    [
        ["--views.global_scale", "0.2", "1.0"],
        ["--views.global_scale", "[0.2,1.0]"],
        ["--views.global_scale=0.2,1"],
        ["--views.global_scale", "[0.2, 1e0]"],
    ],
)
def test_a_list_is_several_values_or_one_in_brackets(words, capsys):
    assert printed_config(capsys, "--recipe", "demo", *words)["views"]["global_scale"] == [0.2, 1.0]


def test_a_list_does_not_swallow_the_next_option(capsys):
    words = ("--recipe", "cifar10-cpu", "--data.mean", "0.5", "--data.std", "0.25", "--data.root", "x", "--seed", "3")
    config = printed_config(capsys, *words)
    assert (config["data"]["mean"], config["data"]["std"], config["seed"]) == ([0.5], [0.25], 3)


def test_switches_need_no_value(capsys):
    on = printed_config(capsys, "--recipe", "demo", "--run.deterministic", "--run.tensorboard", "false")
    assert (on["run"]["deterministic"], on["run"]["tensorboard"]) == (True, False)


def test_null_and_text_are_told_apart(capsys):
    config = printed_config(capsys, "--recipe", "cifar10-cpu", "--data.limit", "null", "--output", "007")
    assert (config["data"]["limit"], config["output"]) == (None, "007")


def test_the_command_line_wins_over_file_and_recipe(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text("optim: {epochs: 7, batch_size: 32}\noutput: from-file\n", encoding="utf-8")
    config = printed_config(capsys, "--recipe", "demo", "--config", str(file), "--optim.epochs", "5")
    assert (config["optim"]["epochs"], config["optim"]["batch_size"]) == (5, 32)
    assert (config["output"], config["model"]["patch_size"]) == ("from-file", 7)


def test_the_printed_config_is_a_config_file(tmp_path, capsys):
    first = printed_config(capsys, "--recipe", "cifar10-cpu", "--data.root", "photos: 1")
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(first), encoding="utf-8")
    assert printed_config(capsys, "--config", str(file)) == first


def test_recipes_are_listed_and_shown_whole(capsys):
    assert cli.main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("demo", "cifar10-vit-tiny", "cifar10-cpu", "folder"))
    assert max(map(len, listed.splitlines())) <= 80
    assert cli.main(["recipes", "show", "demo"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("# summary: ")
    assert yaml.safe_load(shown)["data"] == {"name": "mnist5k"}


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UserError("data.root is missing"), 2, "data.root is missing"),
        (RunError("the loss is not finite\nat step 3"), 1, "the loss is not finite at step 3"),
        (PermissionError(13, "Permission denied", "/runs/a"), 2, "/runs/a: Permission denied"),
        (OSError(28, "No space left on device"), 1, "no space left on the disk"),
        (ValueError("shapes differ"), 1, "ValueError"),
    ],
)
def test_an_error_is_one_line_with_its_exit_code(error, code, words, capsys):
    assert cli.exit_code(error) == code
    err = capsys.readouterr().err
    assert err.startswith("patchmix: error: ")
    assert words in err
    assert err.count("\n") == 1


def test_an_unforeseen_error_says_where_and_how_to_report_it(capsys, monkeypatch):
    monkeypatch.delenv("PATCHMIX_DEBUG", raising=False)
    assert cli.exit_code(KeyError("x")) == 1
    err = capsys.readouterr().err
    assert "report" in err
    assert "PATCHMIX_DEBUG=1" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("given", "code", "said"), [(None, 0, ""), (3, 3, ""), ("no such\nplugin", 1, "no such plugin")]
)
def test_a_library_that_exits_gives_its_code_or_1_with_its_text(given, code, said, capsys, monkeypatch):
    def leave(_):
        raise SystemExit(given)

    monkeypatch.setitem(cli.COMMANDS, "recipes", dataclasses.replace(cli.COMMANDS["recipes"], run=leave))
    assert cli.main(["recipes"]) == code
    assert capsys.readouterr().err == (f"patchmix: error: {said}\n" if said else "")


def test_debugging_shows_the_traceback(capsys, monkeypatch):
    monkeypatch.setenv("PATCHMIX_DEBUG", "1")
    assert cli.main(["pretrian"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["pretrain --help", "report --help", "recipes", "recipes show demo"])
def test_a_reader_that_leaves_early_is_no_error(words):
    command = [sys.executable, "-m", "patchmix", *words.split()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    process.wait()


def test_the_functions_have_the_commands_names():
    assert set(dir(patchmix)) >= {"pretrain", "knn", "fewshot", "report", "load_encoder", "__version__"}
    for name in ("pretrain", "knn", "fewshot", "report", "load_encoder"):
        assert callable(getattr(patchmix, name))
    with pytest.raises(AttributeError, match="nonsense"):
        patchmix.nonsense  # noqa: B018


def test_no_module_hides_a_function():
    package = Path(patchmix.__file__).parent
    for name in ("pretrain", "knn", "fewshot", "report", "load_encoder"):
        assert not (package / name).exists()
        assert not (package / f"{name}.py").exists()


def test_importing_the_package_is_instant():
    probe = f"import sys, patchmix; patchmix.__version__; assert not [m for m in {HEAVY} if m in sys.modules]"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


def test_a_function_checks_its_options_as_the_command_does():
    with pytest.raises(UserError, match=r"there is no option optim\.epoch; did you mean optim\.epochs"):
        patchmix.pretrain("demo", optim={"epoch": 3})
    with pytest.raises(UserError, match=r"data\.limit = -1"):
        patchmix.pretrain("demo", **{"data.limit": -1})

"""Tab completion, tried in a real bash."""

import shutil
import subprocess

import pytest

from patchmix.cli import COMMANDS
from patchmix.completion import SHELLS, completion_script
from patchmix.errors import UserError

needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")


def completed(tmp_path, *words: str) -> list[str]:
    """What bash offers after these words, the last one being begun."""
    script = tmp_path / "patchmix.bash"
    script.write_text(completion_script(COMMANDS, "bash"), encoding="utf-8")
    ask = 'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_patchmix; printf "%s\\n" "${COMPREPLY[@]}"'
    call = ["bash", "--norc", "-c", f"source {script}; {ask}", "bash", "patchmix", *words]
    done = subprocess.run(call, capture_output=True, text=True, timeout=30, check=True, cwd=tmp_path)
    return done.stdout.split()


@needs_bash
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["pre"], ["pretrain"]),
        (["pretrain", "--optim.l"], ["--optim.lr"]),
        (["pretrain", "--recipe", "dem"], ["demo"]),
        (["pretrain", "--recipe", "demo", "--resume", "--data.name", "cifar100"], ["cifar100"]),
        (["pretrain", "--run.tensorboard", "f"], ["false"]),
        (["knn", "--crop"], ["--crop_ratio"]),
        (["recipes", "sh"], ["show"]),
        (["recipes", "show", "dem"], ["demo"]),
        (["completion", "z"], ["zsh"]),
    ],
)
def test_bash_completes_commands_options_and_values(tmp_path, words, expected):
    assert completed(tmp_path, *words) == expected


@needs_bash
def test_bash_completes_folders_where_a_folder_is_meant(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "phone.txt").touch()
    assert completed(tmp_path, "pretrain", "--data.root", "pho") == ["photos"]
    assert completed(tmp_path, "report", "pho") == ["photos"]


@pytest.mark.parametrize("shell", SHELLS)
def test_there_is_a_script_for_every_shell(shell):
    assert "--optim.batch_size" in completion_script(COMMANDS, shell)


def test_another_shell_is_refused_with_those_there_are():
    with pytest.raises(UserError, match=r"no completion for fish.*bash, zsh"):
        completion_script(COMMANDS, "fish")

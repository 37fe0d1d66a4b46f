"""Writes docs/configuration.md from the dataclasses of `patchmix.config`; --check only compares."""

import sys
from pathlib import Path

from patchmix.cli import COMMANDS, EVALUATIONS
from patchmix.config import Config
from patchmix.config.bench import BenchConfig
from patchmix.config.detection import DetectConfig
from patchmix.config.options import Option, all_options, own_options, sections, shown

PAGE = Path(__file__).with_name("configuration.md")
INTRODUCTION = """\
<!-- Written by docs/make_configuration.py (`make docs`). Edit src/patchmix/config/ instead. -->
# Every option

The same names work in three places:

| where | how |
|---|---|
| command line | `--optim.epochs 3` |
| YAML, for `--config` | `optim: {epochs: 3}`, or `optim.epochs: 3` |
| Python | `patchmix.pretrain("demo", optim={"epochs": 3})` |

Defaults < `--recipe` < `--config` < command line. `null` takes an option back to nothing
(`--data.limit null`). A list is several values, or one in brackets: `--views.global_scale 0.2 1.0` or
`--views.global_scale [0.2,1.0]`. A switch needs no value: `--run.deterministic` is
`--run.deterministic true`. `--print_config` prints the config that results, and stops.

Where the `--checkpoint` of an evaluation is a run directory, or a file in one, data options that are not
given are the run's; with another `--data.name` than the run's, none of them are.
"""


def table(options: list[Option]) -> str:
    """The options as a Markdown table."""
    rows = ["| option | default | accepted | what |", "|---|---|---|---|"]
    for each in options:
        default = "required" if each.name == "checkpoint" else f"`{shown(each.default)}`".replace("'", "")
        cells = (f"`{each.name}`", default, each.describe(), each.help)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION, "## patchmix pretrain\n\n" + table(list(own_options(Config).values()))]
    parts += [
        f"### {name}\n{section.__doc__}\n\n" + table(list(own_options(section).values()))
        for name, section in sections(Config).items()
    ]
    for name, (_, config) in EVALUATIONS.items():
        own = list(own_options(config).values()) + list(own_options(sections(config)["run"]).values())
        text = f"{config.__doc__} The options of `data` are those of `pretrain`."
        parts.append(f"## patchmix {name}\n{text}\n\n{table(own)}")
    own = list(all_options(DetectConfig).values())
    parts.append(f"## patchmix detect\n{DetectConfig.__doc__} ([detection.md](detection.md))\n\n{table(own)}")
    own = [*COMMANDS["bench"].extras, *(each for each in own_options(BenchConfig).values() if each.name != "seed")]
    text = "All options of `pretrain` but output and max_steps, and these ([speed.md](speed.md))."
    parts.append(f"## patchmix bench\n{text}\n\n{table(own)}")
    return "\n".join(parts)


if __name__ == "__main__":
    if "--check" not in sys.argv:
        PAGE.write_text(page(), encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page():
        sys.exit("docs/configuration.md is not up to date: run `make docs`")

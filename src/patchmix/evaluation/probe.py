"""Linear probe: how well linear classifiers do on the frozen features (method.md, Evaluation).

`probe` trains a grid of heads in one pass of the encoder and reports the one that is best on images held out from the
TRAINING data; test images choose nothing.
"""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console

from patchmix.config import ProbeConfig
from patchmix.evaluation.description import describe_data, describe_settings
from patchmix.evaluation.opening import open_evaluation
from patchmix.evaluation.probe_fast import fast_probe, fast_settings
from patchmix.evaluation.probe_protocol import protocol_probe, protocol_settings
from patchmix.evaluation.results import Interval, result_path, verdict, write_result
from patchmix.evaluation.scores import per_class
from patchmix.progress import counted, say


def probe(config: ProbeConfig, console: Console | None = None) -> dict[str, Any]:
    """Train linear heads on frozen features; print, write and return the result.

    Metrics: `top1` and `top5` of the head that held-out training images choose; by the protocol also
    `top1_published` and `top5_published`, of the class token with the published learning rate (the mean of the patch
    tokens, or the pooled features, for networks without a class token), where that is in the grid; with `fast` and
    `baselines` also those of the untrained encoder (`random_init_`) and of raw pixels (`pixels_`). `grid` has all
    heads with their held-out accuracy, `chosen` the one reported, `classification` its figures per class.
    Raises UserError for whatever the user can mend, RunError where training diverges altogether.
    """
    console = console or Console()
    started = time.perf_counter()
    evaluation = open_evaluation("probe", config)
    path = result_path("probe", evaluation.loaded.run_directory, config.output)
    outcome = (
        fast_probe(evaluation, config, console) if config.fast else protocol_probe(evaluation, config, path, console)
    )
    metrics: dict[str, float] = {"holdout_top1": outcome.chosen.holdout_top1 or 0.0}
    intervals: dict[str, Interval] = {}
    for row in outcome.rows:
        found, bounds = row.scores()
        metrics |= found
        intervals |= bounds
    first = outcome.rows[0]
    classes = evaluation.train.classes
    kind = "fast" if config.fast else counted(config.epochs, "epoch")
    say(console, f"Linear probe ({kind}), {evaluation.summary}")
    outcome.print(console, metrics, intervals)
    if config.fast:
        say(console, verdict(metrics, intervals, "top1"))
    # After the tables: a full disk must not take what was measured with it.
    result = write_result(
        path,
        command="probe",
        checkpoint=config.checkpoint,
        data=describe_data(evaluation),
        metrics=metrics,
        intervals=intervals,
        grid=outcome.entries(),
        chosen=outcome.entry(outcome.chosen),
        classification=per_class(first.logits.argmax(dim=1), first.labels, classes),
        skipped=outcome.skipped,
        settings={
            **describe_settings(evaluation),
            **(fast_settings(config) if config.fast else protocol_settings(config, evaluation)),
            **outcome.settings,
            "num_held_out": outcome.num_held_out,
            "interval": "95 %, bootstrap over test images",
        },
        seconds=time.perf_counter() - started,
        console=console,
    )
    say(console, f"Written to {path}")
    return result

"""What a few labels are worth: classifiers that learn from so many labels per class, or from a share of all labels.

Logistic regression. Features of all images are centred and divided by one number, so that over all training images
their variance is 1 per dimension on average; no labels are needed for that. scikit-learn's multinomial
logistic regression with its default L2 penalty (C = 1) is fitted to the drawn images and scores every test
image. One number for all dimensions
keeps the features' geometry and makes C = 1 mean the same for any encoder. It matters: with features as they
come, a half-trained encoder whose features lie close together got 76.7 %, with this 88.2 % (standardising
each dimension: 88.2 %), while raw pixels hardly cared (77.3, 76.7; each dimension: 74.6 %) nor did the
untrained encoder (45.9, 46.0; 46.1 %). Measured once, on 800 of mnist5k's training digits held out, 10 labels
per class, 10 draws; nothing is tuned per encoder.

kNN votes as in `patchmix knn`, among the labelled images. Fine-tuning trains the whole network on them, as `patchmix
finetune` does; the row of the untrained encoder is then training from scratch, and raw pixels have none. Every row and
every classifier gets the same drawn images.
"""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from patchmix.config import EvalConfig, FewshotConfig, FinetuneConfig
from patchmix.data.sources import Subset
from patchmix.evaluation.baselines import PIXELS, Subject, subjects
from patchmix.evaluation.description import describe_data, describe_settings, describe_skipped
from patchmix.evaluation.few_labels import Amount, choose_amounts, draw_labelled
from patchmix.evaluation.knn import knn_predict
from patchmix.evaluation.logistic import equalise
from patchmix.evaluation.opening import Evaluation, num_workers, open_evaluation
from patchmix.evaluation.results import (
    Interval,
    print_table,
    result_path,
    spread,
    verdict,
    with_interval,
    write_result,
)
from patchmix.evaluation.scores import interval_over_draws, per_class
from patchmix.evaluation.tuning import tune
from patchmix.evaluation.tuning_recipe import make_plan
from patchmix.models.loading import LoadedEncoder
from patchmix.models.spec import EncoderSpec
from patchmix.progress import say

MAX_ITERATIONS = 2000
# A hundred images are one step an epoch. The demo's encoder, 10 labels per class, 2 draws: 76 % after 100 steps, 90 %
# after 400, 92 % after 1,000.
FINETUNE_STEPS = 400
PREFIXES = {"logistic": "", "knn": "knn_", "finetune": "finetune_"}
TITLES = {
    "logistic": "Logistic regression on frozen features",
    "knn": "Nearest neighbours among the labelled images",
    "finetune": "Fine-tuning of the whole network",
}
PROTOCOLS = {
    "logistic": "features centred and divided by one number (mean variance 1 over all training images), scikit-learn "
    f"LogisticRegression(C=1.0, max_iter={MAX_ITERATIONS})",
    "knn": "cosine, votes exp(similarity / 0.07)",
    "finetune": "as `patchmix finetune` with its defaults, without moving average; finetune_epochs null: 100 epochs, "
    f"or as many as make {FINETUNE_STEPS} steps",
}
INTERVAL = "95 %, test images (bootstrap) and draws (Student's t), combined by MOVER"

Predict = Callable[[Tensor], Tensor]
"""Positions of the labelled images among the training images -> predicted class of every test image."""


def predict_logistic(train: Tensor, train_labels: Tensor, test: Tensor) -> tuple[Tensor, bool]:
    """Classes that a logistic regression on all of `train` gives `test`, and whether its fit converged.

    Features are taken as they are given.
    """
    # Half a second that `patchmix --help` and the other commands need not wait for.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1.0, max_iter=MAX_ITERATIONS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(train.double().numpy(), train_labels.numpy())
    converged = not any(issubclass(each.category, ConvergenceWarning) for each in caught)
    return torch.from_numpy(model.predict(test.double().numpy())), converged


class _Measured:
    """All figures of a few-label evaluation, by metric."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self.intervals: dict[str, Interval] = {}
        self.spreads: dict[str, float] = {}
        self.draws: dict[str, list[float]] = {}
        self.unconverged = 0
        self.classification: dict[str, Any] = {}

    def add(self, name: str, predictions: Sequence[Tensor], labels: Tensor, classes: tuple[str, ...]) -> str:
        """Score what was predicted for the test images in every draw; returns the table's cell."""
        correct = [predicted == labels for predicted in predictions]
        self.draws[name] = [100 * int(each.sum()) / len(each) for each in correct]
        self.metrics[name] = sum(self.draws[name]) / len(correct)
        self.spreads[name] = spread(self.draws[name])
        self.intervals[name] = interval_over_draws(correct)
        if not self.classification:
            self.classification = {"metric": name, "draw": 0, **per_class(predictions[0], labels, classes)}
        cell = with_interval(self.metrics[name], self.intervals[name])
        return f"{cell} ({self.spreads[name]:.1f})" if len(correct) > 1 else cell


def fewshot(config: FewshotConfig, console: Console | None = None) -> dict[str, Any]:
    """Score classifiers that learn from a few labels, over several draws; print, write and return the result.

    Metrics are `top1_{N}_per_class` and `top1_{P}_percent` (mean over draws, per cent) for logistic regression, with
    `knn_` and `finetune_` in front for the other classifiers, and before that `random_init_` and `pixels_` for the
    untrained encoder and raw pixels. `spread` has the standard deviation over draws (n − 1), `draws` every draw's
    accuracy. Raises UserError for whatever the user can mend.
    """
    console = console or Console()
    started = time.perf_counter()
    evaluation = open_evaluation("fewshot", config)
    path = result_path("fewshot", evaluation.loaded.run_directory, config.output)
    classes = evaluation.train.classes
    assert evaluation.train.labels is not None
    choose_amounts(evaluation.train.labels, classes, config)
    found = _Measured()
    amounts: list[Amount] = []
    left_out: list[Amount] = []
    # Per classifier a column for each subject: as rows they would grow too wide with the number of amounts.
    tables: dict[str, list[list[str]]] = {classifier: [] for classifier in dict.fromkeys(config.classifiers)}
    skipped: dict[str, Any] = {}
    for subject in subjects(evaluation, console, config.baselines):
        assert subject.train.labels is not None
        assert subject.test.labels is not None
        labels = subject.train.labels
        skipped = skipped or describe_skipped(subject.train, subject.test, console)
        # Again: unreadable images may have left a class with too few.
        amounts, left_out = choose_amounts(labels, classes, config)
        for classifier, columns in tables.items():
            predict = _classifier(classifier, subject, evaluation, config, found)
            if predict is None:
                continue
            column = ["from scratch" if classifier == "finetune" and subject.prefix else subject.title]
            for amount in amounts:
                each_class = amount.of_each_class(labels.bincount(minlength=len(classes)).tolist())
                drawn = (
                    torch.from_numpy(draw_labelled(labels, each_class, seed=config.seed, draw=draw))
                    for draw in range(config.draws)
                )
                name = f"{subject.prefix}{PREFIXES[classifier]}top1_{amount.name}"
                with console.status(f"{column[0]}: {classifier}, {amount.title}"):
                    predictions = [predict(each) for each in drawn]
                column.append(found.add(name, predictions, subject.test.labels, classes))
            columns.append(column)
    deviation = f"; in brackets the standard deviation of {config.draws} draws" if config.draws > 1 else ""
    say(console, f"Few labels, {evaluation.summary}{deviation}")
    for classifier, columns in tables.items():
        header, *lines = zip(["", *(amount.title for amount in amounts)], *columns, strict=True)
        print_table(console, f"{TITLES[classifier]}, top-1 %", header, lines)
    if left_out:
        named = ", ".join(str(amount.number) for amount in left_out)
        say(console, f"Not measured: {named} labels per class, more than some class has training images.")
    if found.unconverged:
        say(console, f"{found.unconverged} fits had not converged after {MAX_ITERATIONS} iterations.")
    say(console, verdict(found.metrics, found.intervals, f"{PREFIXES[next(iter(tables))]}top1_{amounts[-1].name}"))
    # After the tables: a full disk must not take what was measured with it.
    result = write_result(
        path,
        command="fewshot",
        checkpoint=config.checkpoint,
        data=describe_data(evaluation),
        metrics=found.metrics,
        intervals=found.intervals,
        spread=found.spreads,
        draws=found.draws,
        classification=found.classification,
        skipped=skipped,
        settings={
            **describe_settings(evaluation),
            "protocol": {classifier: PROTOCOLS[classifier] for classifier in tables},
            "unconverged_fits": found.unconverged,
            "interval": INTERVAL,
        },
        seconds=time.perf_counter() - started,
        console=console,
    )
    say(console, f"Written to {path}")
    return result


def _classifier(
    classifier: str, subject: Subject, evaluation: Evaluation, config: FewshotConfig, found: _Measured
) -> Predict | None:
    """What predicts from labelled images; None where this subject has no such row."""
    labels, train, test = subject.train.labels, subject.train.features, subject.test.features
    assert labels is not None
    if classifier == "knn":
        num_classes = len(evaluation.train.classes)
        return lambda drawn: knn_predict(train[drawn], labels[drawn], test, num_classes=num_classes, k=(config.k,))[0]
    if classifier == "finetune":
        return None if subject.prefix == PIXELS else _finetuning(subject, evaluation, config)
    equal_train, equal_test = equalise(train, test)

    def logistic(drawn: Tensor) -> Tensor:
        predicted, converged = predict_logistic(equal_train[drawn], labels[drawn], equal_test)
        found.unconverged += not converged
        return predicted

    return logistic


def enough_epochs(options: FinetuneConfig, loaded: LoadedEncoder, spec: EncoderSpec, num_images: int) -> int:
    """Epochs of fine-tuning on so many images: those of the options, or as many as make FINETUNE_STEPS steps."""
    steps_per_epoch = make_plan(options, spec, loaded.encoder, num_images).steps_per_epoch
    return max(options.epochs, math.ceil(FINETUNE_STEPS / steps_per_epoch))


def _finetuning(subject: Subject, evaluation: Evaluation, config: FewshotConfig) -> Predict:
    loaded = evaluation.loaded
    if subject.prefix:
        loaded = dataclasses.replace(loaded, encoder=loaded.untrained(config.seed))
    shared = {each.name: getattr(config, each.name) for each in dataclasses.fields(EvalConfig)}
    options = FinetuneConfig(**shared, ema_decay=0.0)
    # The test images of the other rows: those that can be read.
    test = Subset(evaluation.test, subject.test.indices.numpy())

    def finetuned(drawn: Tensor) -> Tensor:
        epochs = config.finetune_epochs or enough_epochs(options, loaded, evaluation.spec, len(drawn))
        logits = tune(
            loaded,
            Subset(evaluation.train, subject.train.indices[drawn].numpy()),
            test,
            evaluation.spec,
            dataclasses.replace(options, epochs=epochs),
            device=evaluation.device,
            precision=evaluation.precision,
            num_workers=num_workers(config.data, test, evaluation.device),
        )
        return logits.argmax(dim=1).cpu()

    return finetuned

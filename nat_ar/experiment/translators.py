"""A run opened to translate: its model, and the models that its decoding asks, a rescorer or a drafter."""

import dataclasses
from pathlib import Path
from typing import Any

from nat_ar.config_json import ConfigError
from nat_ar.experiment.run import Run, TrainedModel, described, require_scorer
from nat_ar.nn.packed import Weights
from nat_ar.runtime import console
from nat_ar.translation import decodings
from nat_ar.translation.decodings import Choice
from nat_ar.translation.model import Drafter, Model, require_device
from nat_ar.translation.translator import Translator


def open_translator(
    run: Run | str | Path,
    decoding: Any | str | None = None,
    checkpoint: str = "best",
    *,
    is_for_here: bool = True,
) -> tuple[TrainedModel, Translator]:
    """A run's model and a translator for one of its decodings: text, an object or a Choice; the teacher is loaded where
    the decoding rescores with it, and a drafter where it verifies drafts. `is_for_here` False: programs for other
    machines are all that is wanted."""
    run = Run.of(run)
    if is_for_here:
        require_device(run.config().method)
    loaded = run.load(checkpoint)
    chosen = decodings.choose(loaded.config.method, decoding)
    loaded, scorer = _with_rescorer(run, loaded, chosen)
    loaded, drafter = _with_drafter(run, loaded, chosen)
    translator = Translator(
        loaded.model,
        loaded.vocabulary,
        decoding=chosen.decoding,
        weights=chosen.weights,
        scorer=scorer,
        drafter=drafter,
    )
    return loaded, translator


def _with_rescorer(
    run: Run, loaded: TrainedModel, chosen: Choice
) -> tuple[TrainedModel, Model | None]:
    """The model by which the decoding rescores, if it does. Raises ConfigError for one that cannot."""
    rescorer = run.rescorer(chosen.decoding)
    if rescorer is None:
        return loaded, None
    teacher = rescorer.load()
    require_scorer(teacher, f"the teacher {rescorer.directory}")
    if teacher.vocabulary.hash != loaded.vocabulary.hash:
        raise ConfigError(
            f"the teacher {loaded.config.teacher} has another vocabulary than {run.directory}"
        )
    before = run.facts().get("teacher")  # runs of early versions lack it
    if before not in (None, teacher.fingerprint):
        console.say(
            f"warning: {chosen.text} rescores with another model than the one that {run.directory} was trained "
            f"with: {rescorer.directory} held {described(before)}, now {described(teacher.fingerprint)}"
        )
    return dataclasses.replace(loaded, rescorer=teacher), teacher.model


def _with_drafter(
    run: Run, loaded: TrainedModel, chosen: Choice
) -> tuple[TrainedModel, Drafter | None]:
    """The model whose drafts the decoding verifies, if it does. Raises ConfigError for one that cannot draft."""
    run_of_drafter = run.drafter(chosen.decoding)
    if run_of_drafter is None:
        return loaded, None
    other = run_of_drafter.load()
    if other.vocabulary.hash != loaded.vocabulary.hash:
        raise ConfigError(
            f"the drafter {run_of_drafter.directory} has another vocabulary than {run.directory}: expected a run on "
            "the same prepared data, or on data distilled from them"
        )
    known = dataclasses.replace(
        loaded, drafter=other, drafter_directory=str(run_of_drafter.directory)
    )
    drafting = _drafting(other, chosen)
    # Text without int8 leaves the weights to the verifier.
    weights: Weights | None = "int8" if drafting.weights == "int8" else None
    return known, Drafter(other.model, drafting.decoding, weights)


def _drafting(drafter: TrainedModel, chosen: Choice) -> Choice:
    """The decoding of the drafter. Raises ConfigError for one that itself needs another model."""
    method = drafter.config.method
    drafting = decodings.choose(method, chosen.decoding.drafting)
    decoding = drafting.decoding
    if decodings.needs_scorer(method, decoding) or decodings.needs_drafter(method, decoding):
        raise ConfigError(
            f"a drafter works alone, got {decodings.decoding_text(decoding)} in {chosen.text}: name another decoding "
            "of it in drafting"
        )
    return drafting

"""A trained run that captions."""

from pathlib import Path
from typing import Any

from nat_ar.data.units import unit_of
from nat_ar.experiment.run import Run, TrainedModel
from nat_ar.experiment.translators import open_translator
from nat_ar.streaming import policy as policies
from nat_ar.streaming.captioner import Captioner
from nat_ar.streaming.policy import Policy


def caption(
    run: Run | str | Path,
    policy: Policy | str = "Retranslate()",
    *,
    decoding: Any | str | None = None,
    checkpoint: str | int = "best",
) -> Captioner:
    """Opens a run for captions: `.read(word)` is what is shown after a further word of the source, `.end()` after its
    end, `.replay(sentence)` all of that.

    `policy`: an object such as Retranslate(mask_k=2), or its text. `decoding` and `checkpoint` as for `load`. Lags are
    counted in words, or in characters where a language of the run's corpus is written without spaces. Raises
    ConfigError where the directory is no run, or its method cannot follow the policy."""
    return opened(run, policy, decoding=decoding, checkpoint=checkpoint)[1]


def opened(
    run: Run | str | Path,
    policy: Policy | str,
    *,
    decoding: Any | str | None = None,
    checkpoint: str | int = "best",
) -> tuple[TrainedModel, Captioner]:
    """A run's model and its captions."""
    run = Run.of(run)
    chosen = policies.choose(policy)
    corpus = run.config().data.corpus
    trained, translator = open_translator(run, decoding, str(checkpoint))
    captioner = Captioner(
        translator,
        chosen,
        source_unit=unit_of(corpus.source_language),
        target_unit=unit_of(corpus.target_language),
    )
    return trained, captioner

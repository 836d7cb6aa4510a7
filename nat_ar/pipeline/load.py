"""A trained run under one of its decodings, for Python: sentences in; translations, scores and internals out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nat_ar.experiment import translators
from nat_ar.experiment.run import Run, TrainedModel
from nat_ar.runtime import devices
from nat_ar.translation.translation import Translation
from nat_ar.translation.translator import Translator


class TranslationSystem:
    """What `nat_ar.load` returns. Each shape of batch is compiled at its first use."""

    def __init__(self, run: Run, trained: TrainedModel, translator: Translator) -> None:
        self.run, self.trained, self.translator = run, trained, translator

    @property
    def decoding(self) -> Any:
        """The decoding in use."""
        return self.translator.decoding

    @property
    def score_name(self) -> str:
        """What the scores of `translate` are, in words: of a sum over the translation or of a mean over its words, of
        the model or of its rescorer. Those of `score` are always log p."""
        return self.translator.decoding.score

    def translate(self, sentences: Sequence[str]) -> list[Translation]:
        """One Translation (texts, scores, tokens, passes) for each sentence, in order. Several batches are dealt round
        the devices."""
        return self.translator.translate(_list_of(sentences, "sentences"), title="translate")

    def score(self, sources: Sequence[str], targets: Sequence[str]) -> list[float]:
        """log p of each given translation and its end, in nats.

        Raises ValueError where the method cannot score (only autoregressive and joint models can), or the lists
        differ in length."""
        return self.translator.score(_list_of(sources, "sources"), _list_of(targets, "targets"))

    def internals(self, sources: Sequence[str]) -> list[dict[str, np.ndarray | list[str]]]:
        """What the method computes on its way to each translation: named arrays without padding, beside the
        subwords of source ("source_pieces") and translation ("target_pieces"). docs/methods.md lists them."""
        return self.translator.internals(_list_of(sources, "sources"))

    def pieces(self, tokens: Sequence[int] | np.ndarray) -> list[str]:
        """The target subwords of token ids, such as those of `internals`; special tokens by their names."""
        return self.translator.vocabulary.target_pieces([int(token) for token in tokens])

    def __repr__(self) -> str:
        return (
            f"TranslationSystem({str(self.run.directory)!r}, step {self.trained.step:,}, "
            f"{self.translator.choice.text}, {self.trained.num_parameters:,} parameters)"
        )


def load(
    run: str | Path, decoding: Any | str | None = None, *, checkpoint: str | int = "best"
) -> TranslationSystem:
    """Opens a run for translating.

    `decoding`: an object such as NoisyParallel(samples=10), its text, or None for the run's own. For 8-bit weights text
    ends in " int8", and an object becomes decodings.Choice(object, "int8"). `checkpoint`: "best" (by validation),
    "latest", a step, or "average:5", the mean of the best five. A decoding that rescores loads the run's teacher.
    Raises ConfigError (a ValueError) where the directory is no run, or the decoding is none of its method."""
    directory = Run(Path(run))
    trained, translator = translators.open_translator(directory, decoding, str(checkpoint))
    translator.devices = devices.local()
    return TranslationSystem(directory, trained, translator)


def _list_of(sentences: Sequence[str], name: str) -> list[str]:
    if isinstance(sentences, str):
        raise ValueError(
            f"{name}: expected a list of texts, got the text {sentences!r}; write [{sentences!r}]"
        )
    return list(sentences)

"""Decodings: settings that carry their search.

A method's model makes what the search needs (a step function, logits, a graph, lengths) and hands it to the
decoding. Each kind of search has a base class, an open kind of config: a decoding in any file may join it."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Int

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.search.step_function import Cache, StepFunction
from nat_ar.types import Hypotheses


@dataclasses.dataclass(frozen=True)
class Decoding(config_json.Config):
    """How a model makes translations. Decodings that have a choice override these with fields."""

    rescore = False
    """whether a scorer orders the candidates, not their own score"""
    n_best = 1
    """translations returned, best first"""
    remove_repeats = False
    """whether one of every run of equal words is returned, and is what a scorer sees"""

    @property
    def wait_k(self) -> int | None:
        """Tokens of the source that the first token of a translation sees (of frames: those of the first source token);
        each further one sees one more. None: every token sees all of them."""
        return None

    @property
    def own_score(self) -> str:
        """What the search itself scores translations by, in words. Sums over a translation and means over its words
        are other numbers: those of two decodings compare only where the words agree."""
        return "the score of the search, nats"

    @property
    def score(self) -> str:
        """What the scores of its translations are, in words; higher is better."""
        return RESCORED if self.rescore else self.own_score

    @classmethod
    def upgraded(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Where repeats may be removed or blocked today, they once stayed, and BLANK had no penalty."""
        former = {"remove_repeats": False, "blank_penalty": 0.0, "no_repeat_ngram_size": 0}
        fields = {field.name for field in dataclasses.fields(cls)}
        return {**{name: former[name] for name in former if name in fields}, **data}


@dataclasses.dataclass(frozen=True)
class StepwiseDecoding(Decoding, config_json.Open, abc.ABC):
    """A search over a step function: for models that predict a token from the tokens before it."""

    @abc.abstractmethod
    def search(
        self,
        step: StepFunction,
        empty_cache: Callable[[int], Cache],
        source: Int[Array, "batch source_length"],
        *,
        max_length: int,
    ) -> Hypotheses:
        """Translations of every source row, each within its limits.length_limit and within max_length.

        `empty_cache(n)` makes a cache of n hypotheses a row and max_length + 1 positions: the last one is for EOS."""


RESCORED = "log p by the rescorer / length ** its rescoring_length_penalty, nats"
MEAN = "mean log p of the words, nats a word"
MAX_LENGTH_PENALTY = 10.0
"""523 tokens, the longest translation, to the power of 10 times their log p is a float32; to the power of 14 it is
infinite, and every translation as bad as none"""


def penalised(log_p: str, length_penalty: float) -> str:
    """The words for log p divided by length ** length_penalty."""
    return (
        f"{log_p}, nats" if length_penalty == 0.0 else f"{log_p} / length ** {length_penalty}, nats"
    )


def require_length_penalty(
    value: float, *, least: float = -MAX_LENGTH_PENALTY, name: str = "length_penalty"
) -> None:
    """Raises ConfigError for an exponent of the length that leaves no numbers to compare."""
    if not least <= value <= MAX_LENGTH_PENALTY:
        raise ConfigError(
            f"{name} must be from {least:g} to {MAX_LENGTH_PENALTY:g}, got {value}; 0 to 2 are usual"
        )


def require_n_best(decoding: Decoding, **candidates: int) -> None:
    """Raises ConfigError unless n_best is from 1 to the number of candidates, given under its field's name."""
    ((name, number),) = candidates.items()
    if not 1 <= decoding.n_best <= number:
        raise ConfigError(
            f"{type(decoding).__name__} needs 1 <= n_best <= {name}, got n_best {decoding.n_best} "
            f"and {name} {number}"
        )

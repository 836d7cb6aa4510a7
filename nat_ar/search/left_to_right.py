"""The searches that write a translation from left to right, one of them by its settings.

Knows token ids and a step function only: every autoregressive model decodes by this one function."""

from collections.abc import Callable

from jaxtyping import Array, Int

from nat_ar.search import beam, greedy, limits, sampling
from nat_ar.search.beam import Beam
from nat_ar.search.greedy import Greedy
from nat_ar.search.sampling import Sampling
from nat_ar.special_tokens import PAD
from nat_ar.types import Cache, Hypotheses, StepFunction


def search(
    step: StepFunction,
    empty_cache: Callable[[int], Cache],
    source: Int[Array, "batch source_length"],
    decoding: Greedy | Beam | Sampling,
    *,
    max_length: int,
) -> Hypotheses:
    """Translations of every source row within its limits.length_limit and within max_length.

    `empty_cache(hypotheses)` makes the cache of that many hypotheses a row and max_length + 1 positions:
    a search writes EOS, too."""
    source_lengths = (source != PAD).sum(axis=1)
    row_limits = limits.within(max_length, source_lengths)
    is_sentence = source_lengths > 0
    if isinstance(decoding, Greedy):
        return greedy.search(
            step,
            empty_cache(1),
            length_limits=row_limits,
            is_sentence=is_sentence,
            max_length=max_length,
        )
    if isinstance(decoding, Sampling):
        return sampling.search(
            step,
            empty_cache(1),
            decoding,
            keys=sampling.row_keys(source, seed=decoding.seed),
            length_limits=row_limits,
            is_sentence=is_sentence,
            max_length=max_length,
        )
    return beam.search(
        step,
        empty_cache(decoding.size),
        decoding,
        length_limits=row_limits,
        is_sentence=is_sentence,
        max_length=max_length,
    )

"""What all searches share: how long a translation may be, which tokens it may contain, and the ladder of widths
(numbers of target positions that are computed) that bounds what is compiled."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from nat_ar.special_tokens import BLANK, BOS, EOS, MASK, PAD
from nat_ar.types import Hypotheses, lengths_of

NEVER_TEXT = (PAD, BOS, MASK, BLANK)
Lengths = TypeVar("Lengths", int, Array)


def length_limit(source_lengths: Lengths) -> Lengths:
    """The most tokens (EOS not counted) that a translation may have: 2 * source length + 10.

    It depends on the sentence alone, never on its batch: a bucket of sources of up to n tokens needs
    length_limit(n) target positions."""
    return 2 * source_lengths + 10


def within(max_length: int, source_lengths: Int[Array, "batch"]) -> Int[Array, "batch"]:
    """The length limit of each row, and at most max_length."""
    return jnp.minimum(length_limit(source_lengths), max_length)


def of_sources(
    source: Int[Array, "batch source_length"], max_length: int
) -> tuple[Int[Array, "batch"], Bool[Array, "batch"]]:
    """The length limit of each row, and whether the row has any token: rows that fill a batch have none."""
    source_lengths = lengths_of(source)
    return within(max_length, source_lengths), source_lengths > 0


def forbid(
    logits: Float[Array, "*axes vocabulary"], token_ids: Sequence[int]
) -> Float[Array, "*axes vocabulary"]:
    """Logits with -inf for the given tokens. With any finite value, a beam wider than the allowed vocabulary would keep
    hypotheses with such a token.

    A constant mask fuses with the operation that reads the logits; a scatter wrote all of them once more, which took a
    third of the latency of a small one-pass model."""
    is_forbidden = np.isin(np.arange(logits.shape[-1]), token_ids)
    return jnp.where(is_forbidden, -jnp.inf, logits)


def text_logits(
    logits: Float[Array, "*axes vocabulary"], *, may_end: bool
) -> Float[Array, "*axes vocabulary"]:
    """Logits with -inf for tokens that a translation cannot contain; `may_end`: the model predicts EOS."""
    return forbid(logits, NEVER_TEXT if may_end else (*NEVER_TEXT, EOS))


def at_width(
    widest: Int[Array, ""],
    ladder: Sequence[int],
    decode: Callable[[int], Hypotheses],
) -> Hypotheses:
    """Runs `decode(width)` for the smallest width of the ladder that is at least `widest`, and pads the tokens
    to the last width. A one-pass decoder then pays for the length that it predicted, not for the longest
    possible one; all widths are compiled once, in one program."""
    last = ladder[-1]

    def branch(width: int) -> Callable[[], Hypotheses]:
        def run() -> Hypotheses:
            hypotheses = decode(width)
            padding = ((0, 0), (0, 0), (0, last - width))
            tokens = jnp.pad(hypotheses.tokens, padding, constant_values=PAD)
            return Hypotheses(tokens, hypotheses.scores, hypotheses.passes)

        return run

    index = jnp.searchsorted(jnp.asarray(ladder), widest)
    index = jnp.minimum(index, len(ladder) - 1)
    return jax.lax.switch(index, [branch(width) for width in ladder])


def width_ladder(max_length: int) -> tuple[int, ...]:
    """At most three widths, up to max_length: most translations are about as long as their source, and max_length is
    more than twice that.

    Each width is a branch to compile: a finer ladder saved little time and cost seconds of compilation for each batch
    shape."""
    shares = (0.4, 0.65, 1.0)
    widths = {min(max_length, -(-int(max_length * share) // 4) * 4) for share in shares}
    return tuple(sorted(widths | {max_length}))

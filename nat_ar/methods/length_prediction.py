"""The number of words of a translation, from a classifier over the encoder's mean state.

Lee et al. 2018 (arXiv:1802.06901, section 3) predict the offset to the source's length; Ghazvininejad et
al. 2019 (arXiv:1904.09324, section 3.3) try the best few lengths in parallel (length beam). Both read the
mean of the encoder states here; the second paper has a special token for it."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from nat_ar.losses import cross_entropy
from nat_ar.nn import layers
from nat_ar.search import limits
from nat_ar.types import Encoded, Mean


class LengthPredictor(nnx.Module):
    """Class c is target length = source length + c - max_offset, EOS counted in neither."""

    def __init__(
        self, d_model: int, max_offset: int, *, prior: float = 0.0, rngs: nnx.Rngs
    ) -> None:
        """`prior` is where the bias of offset 0 starts; the others start at 0."""
        self.head = layers.Linear(d_model, 2 * max_offset + 1, rngs=rngs)
        self.head.bias[...] = self.head.bias[...].at[max_offset].set(prior)
        self.max_offset = max_offset

    def logits(self, encoded: Encoded) -> Float[Array, "batch classes"]:
        is_source = jnp.arange(encoded.states.shape[1]) < encoded.lengths[:, None]
        total = jnp.where(is_source[..., None], encoded.states.astype(jnp.float32), 0.0).sum(axis=1)
        return self.head(total / jnp.maximum(encoded.lengths, 1)[:, None])

    def loss(self, encoded: Encoded, target_lengths: Int[Array, "batch"]) -> Mean:
        """Cross entropy in nats, averaged over sentences. Target lengths do not count EOS; offsets beyond
        max_offset count as the outermost class."""
        offset = target_lengths - (encoded.lengths - 1)
        classes = jnp.clip(offset, -self.max_offset, self.max_offset) + self.max_offset
        return cross_entropy.class_cross_entropy(self.logits(encoded), classes, encoded.lengths > 0)

    def best(self, encoded: Encoded, size: int, *, max_length: int) -> Int[Array, "batch size"]:
        """The most probable lengths, best first, each from 1 to min(max_length, limits.length_limit(source length)).
        If fewer than `size` are possible, the last ones repeat a bound; rows without a sentence have length 0. Raises
        ValueError if there are fewer classes than `size`."""
        if size > 2 * self.max_offset + 1:
            raise ValueError(
                f"a length beam of {size} needs {size} classes of lengths, got "
                f"{2 * self.max_offset + 1}; raise max_length_offset or try fewer lengths"
            )
        longest = limits.within(max_length, encoded.lengths)[:, None]
        offsets = jnp.arange(-self.max_offset, self.max_offset + 1)
        candidates = (encoded.lengths - 1)[:, None] + offsets
        is_possible = (candidates >= 1) & (candidates <= longest)
        logits = jnp.where(is_possible, self.logits(encoded), -jnp.inf)
        _, classes = jax.lax.top_k(logits, size)
        lengths = jnp.take_along_axis(candidates, classes, axis=1)
        lengths = jnp.clip(lengths, 1, longest)
        return jnp.where(encoded.lengths[:, None] > 0, lengths, 0)


def stretch(
    lengths: Int[Array, "batch size"],
    source_lengths: Int[Array, "batch"],
    *,
    multiplier: float,
    max_length: int,
) -> Int[Array, "batch size"]:
    """Lengths times the multiplier, rounded, halves to even, within limits.length_limit and max_length."""
    wanted = jnp.round(multiplier * lengths).astype(jnp.int32)
    return jnp.minimum(wanted, limits.within(max_length, source_lengths)[:, None])

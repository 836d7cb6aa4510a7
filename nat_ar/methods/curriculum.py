"""Training that begins as the autoregressive teacher's and ends as a one-pass model's.

Fine-tuning by curriculum learning (Guo et al. 2020, arXiv:1911.08717): a student with the parameters of its teacher
reads, at first, what the teacher reads, the word before each position under a causal mask; more and more positions then
read copies of the source instead, and the mask goes. After the last step of the curriculum training is that of a method
without one (`Method.at`); decoding never knows of it.

What differs from their code: every position is drawn by itself, where theirs draws positions for a whole batch, and
leaves some batches as they are; there the log pace counts in units of 10,000 steps, 200 of them, here in 200 parts."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.losses import cross_entropy
from nat_ar.losses.cross_entropy import CrossEntropy
from nat_ar.losses.token_loss import TokenLoss
from nat_ar.methods.left_to_right import shift_right
from nat_ar.nn import layers
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.special_tokens import PAD
from nat_ar.types import Mean, pytree_dataclass

CROSS_ENTROPY = CrossEntropy()
PARTS = 200.0
"""of the log pace: `total_steps` of the authors' code"""
NEVER_COUNTED = 2**32 - 1
"""The draw of positions takes no key from the stream, whose later keys, those of dropout, are so the ones of a model
without a curriculum."""


@dataclasses.dataclass(frozen=True)
class Curriculum(config_json.Config):
    """From teacher forcing to copies of the source (Guo et al. 2020). Meant for a student that starts with its
    teacher's encoder and decoder."""

    steps: int = 300
    """optimizer steps until all positions read copies"""
    pace: Literal["linear", "log"] = "log"
    """how the share of positions that read the word before them falls from 1 to 0: evenly, or fast at first"""
    causal_above: float = 0.5
    """the causal mask stays while that share is above this one; 0: to the end of the curriculum. Without the mask, a
    position may find its own word in the input of the next one"""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"curriculum.steps must be at least 1, got {self.steps}")
        config_json.require_share("curriculum.causal_above", self.causal_above)

    def is_over(self, step: int) -> bool:
        """Whether an optimizer step is that of a method without a curriculum."""
        return step >= self.steps

    def forced_share(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """The share of positions that read the word before them, at an optimizer step: exactly 1 at step 0, and 0 from
        the last one on."""
        done = step / self.steps
        if self.pace == "log":
            done = jnp.log1p((PARTS - 1.0) * done) / jnp.log(PARTS)
        return jnp.where(step >= self.steps, 0.0, jnp.clip(1.0 - done, 0.0, 1.0))


def check(
    curriculum: Curriculum | None,
    transformer: TransformerConfig,
    *,
    token_loss: TokenLoss = CROSS_ENTROPY,
) -> None:
    """Raises ConfigError where a method cannot have a curriculum."""
    if curriculum is None:
        return
    if transformer.implementation == "cudnn":
        raise ConfigError(
            "curriculum changes the mask of self-attention from step to step, which attention by 'cudnn' cannot; set "
            "transformer.implementation to 'xla' or curriculum to None"
        )
    if not token_loss.is_in_place:
        raise ConfigError(
            "curriculum predicts each word from the one before it and needs token_loss CrossEntropy, got "
            f"{type(token_loss).__name__}; set curriculum to None or token_loss to CrossEntropy()"
        )


@pytree_dataclass
class Lesson:
    """What a decoder reads at one step of a curriculum."""

    before: Int[Array, "batch width"] | None
    """the word before each position, BOS before the first; PAD where a copy is read. None: copies everywhere"""
    is_causal: bool | Bool[Array, ""]
    """whether positions see those before them only"""
    terms: dict[str, Mean]
    """`forced`, the share of positions that read the word before"""

    def read(
        self,
        inputs: Float[Array, "batch width d_model"],
        shown: Int[Array, "batch width"] | None,
        embedding: layers.Embedding,
    ) -> Float[Array, "batch width d_model"]:
        """The inputs, with the words before in place of copies; what glancing shows stays."""
        if self.before is None:
            return inputs
        is_forced = self.before != PAD
        if shown is not None:
            is_forced &= shown == PAD
        return jnp.where(is_forced[..., None], embedding(self.before), inputs)


def lesson(
    curriculum: Curriculum | None,
    target: Int[Array, "batch width"],
    *,
    step: Int[Array, ""],
    rngs: nnx.Rngs | None,
) -> Lesson:
    """That of an optimizer step; without rngs, which is evaluation, that of a model without a curriculum. The target
    ends with its last word."""
    if curriculum is None or rngs is None:
        return Lesson(None, False, {})
    share = curriculum.forced_share(step)
    key = jax.random.fold_in(rngs.dropout.key[...], NEVER_COUNTED)
    is_word = target != PAD
    is_forced = (jax.random.uniform(key, target.shape) < share) & is_word
    return Lesson(
        before=jnp.where(is_forced, shift_right(target), PAD),
        is_causal=share > curriculum.causal_above,
        terms={"forced": cross_entropy.masked_mean(is_forced.astype(jnp.float32), is_word)},
    )

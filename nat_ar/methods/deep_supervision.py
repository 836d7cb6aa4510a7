"""Deep supervision with layer-wise prediction, DSLP (Huang et al. 2022, arXiv:2110.07515, section 3): every decoder
layer predicts the words, learns from them, and passes its words on to the next layer.

Layer l predicts by the shared output embedding; the next layer reads W_l [h_l ; e(argmax)]. It works with any decoder
that predicts all words at once: layer_states runs it.

What differs from the paper:
- W_l starts as [I; 0], so that a decoder starts as the one without deep supervision; from random W_l every layer would
  start with a random map of the one below, where the residual stream should carry it on;
- under pre-norm, the prediction of a layer has a layer normalisation of its own, as that of the last has; the next
  layer reads h_l as it is, or normalised too (`reads="normalised"`), which is no start from the decoder without;
- losses are averaged over layers (as in the authors' code), not added, so that one weight of the length loss fits any
  depth;
- the words passed on are always predicted ones (no mixed training)."""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from nat_ar.config_json import ConfigError
from nat_ar.nn import layers
from nat_ar.nn.decoder import BetweenBlocks
from nat_ar.nn.transformer import TransformerConfig

Reads = Literal["states", "normalised"]


def check(transformer: TransformerConfig) -> None:
    """Raises ConfigError if there is no layer below the last."""
    if transformer.num_decoder_layers < 2:
        raise ConfigError(
            "deep_supervision needs transformer.num_decoder_layers of at least 2, got "
            f"{transformer.num_decoder_layers}; set deep_supervision to False or add layers"
        )


class DeepSupervision(nnx.Module):
    """The parameters of every decoder layer but the last for predicting and for passing its words on."""

    def __init__(
        self, config: TransformerConfig, *, reads: Reads = "states", rngs: nnx.Rngs
    ) -> None:
        below = range(config.num_decoder_layers - 1)
        is_pre, d_model = config.norm == "pre", config.d_model
        self.norms = nnx.List([layers.LayerNorm(d_model) for _ in below]) if is_pre else None
        self.merges = nnx.List(
            [layers.Linear(2 * d_model, d_model, dtype=config.dtype, rngs=rngs) for _ in below]
        )
        for merge in self.merges:
            merge.kernel[...] = jnp.eye(2 * d_model, d_model)
        self.reads = reads

    def layer_states(
        self,
        run_decoder: Callable[[BetweenBlocks], Float[Array, "rows length d_model"]],
        embedding: layers.Embedding,
        best_words: Callable[[Float[Array, "rows length vocabulary"]], Int[Array, "rows length"]],
    ) -> list[Float[Array, "rows length d_model"]]:
        """What each layer predicts from, in order; the last layer's are the model's. best_words: a layer's logits ->
        the words that it passes on."""
        predictions = []

        def pass_on(
            layer: int, states: Float[Array, "rows length d_model"]
        ) -> Float[Array, "rows length d_model"]:
            said = states if self.norms is None else self.norms[layer](states)
            predictions.append(said)
            words = embedding(best_words(embedding.attend(said)))
            states = said if self.reads == "normalised" else states
            return self.merges[layer](jnp.concatenate([states, words], axis=-1))

        states = run_decoder(pass_on)
        return [*predictions, states]

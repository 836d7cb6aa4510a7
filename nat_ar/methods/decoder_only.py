"""Translation by one Transformer stack: a language model whose prefix is the source (Liu et al. 2018,
arXiv:1801.10198; prefix language model of Raffel et al. 2020, arXiv:1910.10683, section 3.2.1).

Source and target are one sequence with a segment embedding each; the source attends to all of itself, the target to
the source and to its own past. There is no encoder and no cross attention: at every depth the target attends to the
source of the same depth (as in He et al. 2018, layer-wise coordination). The stack has as many blocks as encoder and
decoder of the same TransformerConfig together: about as many parameters as methods/autoregressive.py (less the cross
attentions) and twice the depth on every path, all of it in every step of decoding. With `source_attention` "causal"
the source can be learned as a language as well (Wang et al. 2021, arXiv:2106.13627), by a loss of fixed weight."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, Literal

import jax
from flax import nnx
from jaxtyping import Array, Float, Int

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.losses import cross_entropy
from nat_ar.methods import base
from nat_ar.methods.left_to_right import FromStates, shift_right
from nat_ar.nn import prefix
from nat_ar.nn.cache import Cache, Position
from nat_ar.nn.prefix import PrefixEncoded, PrefixStack
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.search.base import require_length_penalty
from nat_ar.search.beam import Beam
from nat_ar.search.left_to_right import LeftToRightDecoding
from nat_ar.search.step_function import Blocks, StepFunction
from nat_ar.types import Batch, Loss, Prediction, lengths_of


@dataclasses.dataclass(frozen=True)
class DecoderOnly(base.Method):
    """One Transformer stack, translating as a prefix language model (Raffel et al. 2020)."""

    family: ClassVar[base.Family] = "AR"
    has_own_encoder: ClassVar[bool] = True

    transformer: TransformerConfig = TransformerConfig()
    """sizes; the stack has num_encoder_layers + num_decoder_layers blocks"""
    source_attention: Literal["bidirectional", "causal"] = "bidirectional"
    """a position of the source attends to all of the source, or to its past"""
    source_loss_weight: float = 0.0
    """weight of predicting the source's next token, beside the target's; needs "causal\""""
    label_smoothing: float = 0.1
    """share of the target probability spread over the vocabulary"""
    decoding: LeftToRightDecoding = Beam()
    """search used unless the command says otherwise"""
    rescoring_length_penalty: float = 1.0
    """as a rescorer: candidates are ordered by log p / length ** rescoring_length_penalty"""

    def __post_init__(self) -> None:
        config_json.require_share("label_smoothing", self.label_smoothing, may_be_one=False)
        require_length_penalty(self.rescoring_length_penalty, name="rescoring_length_penalty")
        if self.source_loss_weight < 0.0:
            raise ConfigError(
                f"source_loss_weight must not be below 0, got {self.source_loss_weight}"
            )
        if self.source_loss_weight > 0.0 and self.source_attention == "bidirectional":
            raise ConfigError(
                "a source that sees its own next token learns nothing by predicting it: set "
                "source_attention to 'causal' or source_loss_weight to 0, got "
                f"{self.source_attention!r} and {self.source_loss_weight}"
            )
        prefix.require_prefix(self.transformer)

    def build(self, sizes: base.VocabularySizes, *, rngs: nnx.Rngs) -> "DecoderOnlyModel":
        return DecoderOnlyModel(self, sizes, rngs=rngs)


class DecoderOnlyModel(FromStates):
    config: DecoderOnly

    def __init__(self, config: DecoderOnly, sizes: base.VocabularySizes, *, rngs: nnx.Rngs) -> None:
        transformer = config.transformer
        super().__init__(transformer.d_model, transformer.dtype, sizes, rngs=rngs)
        is_causal = config.source_attention == "causal"
        self.stack = PrefixStack(transformer, is_source_causal=is_causal, rngs=rngs)
        self.config = config

    @jax.named_scope("encoder")
    def encode(
        self, source: Int[Array, "batch source_length"], *, rngs: nnx.Rngs | None = None
    ) -> PrefixEncoded:
        """The source's part of the sequence."""
        return self.stack.read(self.embed_source(source), lengths_of(source), rngs=rngs)

    def _states(
        self,
        encoded: PrefixEncoded,
        target: Int[Array, "rows target_length"],
        *,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "rows target_length d_model"]:
        inputs = self.target_embedding(shift_right(target))
        return self.stack.write(inputs, encoded, rngs=rngs)

    def loss(
        self,
        batch: Batch,
        *,
        step: Int[Array, ""],
        rngs: nnx.Rngs | None,
        teacher: base.Teacher | None = None,
    ) -> Loss:
        encoded = self.encode(batch.source, rngs=rngs)
        smoothed, plain = cross_entropy.smoothed_cross_entropy(
            self._predicted(encoded, batch.target, rngs=rngs),
            batch.target,
            smoothing=self.config.label_smoothing,
        )
        weight = self.config.source_loss_weight
        if weight == 0.0:
            return Loss(smoothed.value, {"token": plain})
        of_source, plain_of_source = cross_entropy.smoothed_cross_entropy(
            self.source_prediction(encoded),
            batch.source[:, 1:],
            smoothing=self.config.label_smoothing,
        )
        objective = smoothed.value + weight * of_source.value
        return Loss(objective, {"token": plain, "source": plain_of_source})

    def source_prediction(self, encoded: PrefixEncoded) -> Prediction:
        """Of the next token at every source position but the last; the first token is given."""
        joint, own = self.target_embedding, self.source_embedding
        return (joint if own is None else own).predict(encoded.states[:, :-1])

    def _stepper(
        self, encoded: PrefixEncoded, max_length: int
    ) -> tuple[StepFunction, Callable[[int], Cache]]:
        def step(
            token_ids: Int[Array, "batch beam"], cache: Cache, position: Position
        ) -> tuple[Float[Array, "batch beam vocabulary"], Cache]:
            inputs = self.target_embedding(token_ids)
            states, cache = self.stack.step(inputs, cache, position, encoded)
            return self.target_embedding.attend(states), cache

        def empty_cache(hypotheses: int) -> Cache:
            return self.stack.empty_cache(encoded.lengths.shape[0], hypotheses, max_length + 1)

        return step, empty_cache

    def _blocks(self, encoded: PrefixEncoded, max_length: int, block: int) -> Blocks:
        def extend(
            tokens: Int[Array, "batch block"], cache: Cache, position: Int[Array, "batch"]
        ) -> tuple[Float[Array, "batch block vocabulary"], Cache]:
            inputs = self.target_embedding(tokens)
            states, cache = self.stack.extend(inputs, cache, position, encoded)
            return self.target_embedding.attend(states), cache

        cache = self.stack.empty_cache(encoded.lengths.shape[0], 1, max_length + 1)
        return Blocks(extend, cache, is_exact=False)  # attention to the prefix is XLA's

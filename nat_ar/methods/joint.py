"""One encoder under two decoders, autoregressive and non-autoregressive, trained together.

The length NAT of methods/length_nat.py, with all its options, and beside its decoder the causal one of
methods/autoregressive.py. One model then translates token by token (Greedy, Beam, Sampling) or all words at
once (LengthBeam), and rescores its own candidates: Gu et al. 2018 (arXiv:1711.02281, section 3.3) let a
separate teacher score noisy parallel candidates, which encodes the source a second time; here the causal
decoder scores them on the states that are already there. Hao et al. 2021 (arXiv:2010.12868) train two
decoders over one encoder so that the non-autoregressive one learns from the other; here both serve
afterwards, and the weights of their losses stay fixed."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

from flax import nnx
from jaxtyping import Array, Float, Int

from nat_ar.config_json import ConfigError
from nat_ar.losses import cross_entropy
from nat_ar.methods import autoregressive, base
from nat_ar.methods.length_nat import LengthBeam, LengthNat, LengthNatModel
from nat_ar.nn import attention
from nat_ar.nn.transformer import Decoder
from nat_ar.search.beam import Beam
from nat_ar.search.greedy import Greedy
from nat_ar.search.sampling import Sampling
from nat_ar.types import Batch, Encoded, Hypotheses, Loss


@dataclasses.dataclass(frozen=True)
class Joint(LengthNat):
    """A length NAT and an autoregressive decoder on one encoder, trained together."""

    family: ClassVar[base.Family] = "AR+NAT"
    rescores_itself: ClassVar[bool] = True

    decoding: LengthBeam | Greedy | Beam | Sampling = LengthBeam(5, rescore=True)  # type: ignore[assignment]
    """decoding used unless the command says otherwise; LengthBeam by the non-autoregressive decoder,
    with rescore by this model's own autoregressive one, the others by the latter alone"""
    num_autoregressive_layers: int | None = None
    """depth of the autoregressive decoder; None: that of the other, transformer.num_decoder_layers"""
    autoregressive_weight: float = 0.5
    """share of the autoregressive loss; the non-autoregressive one, length loss and all, has the rest"""
    rescoring_length_penalty: float = 1.0
    """candidates are ordered by log p / length ** rescoring_length_penalty"""

    def __post_init__(self) -> None:
        super().__post_init__()
        attention.require_steps(self.transformer.attention)
        if not 0.0 < self.autoregressive_weight < 1.0:
            raise ConfigError(
                "autoregressive_weight must be above 0 and below 1, or one decoder learns nothing, got "
                f"{self.autoregressive_weight}; Autoregressive and LengthNat train one decoder alone"
            )
        if self.num_autoregressive_layers is not None and self.num_autoregressive_layers < 1:
            raise ConfigError(
                "num_autoregressive_layers must be at least 1, or None, got "
                f"{self.num_autoregressive_layers}"
            )

    def build(self, sizes: base.VocabularySizes, *, rngs: nnx.Rngs) -> "JointModel":
        return JointModel(self, sizes, rngs=rngs)


class JointModel(LengthNatModel):
    """The rule is one level of inheritance, for the encoder; this second one takes over the whole
    non-autoregressive half, options that are yet to come among it."""

    config: Joint

    def __init__(self, config: Joint, sizes: base.VocabularySizes, *, rngs: nnx.Rngs) -> None:
        super().__init__(config, sizes, rngs=rngs)
        depth = config.num_autoregressive_layers or config.transformer.num_decoder_layers
        transformer = dataclasses.replace(config.transformer, num_decoder_layers=depth)
        self.causal_decoder = Decoder(transformer, rngs=rngs)

    def loss(
        self,
        batch: Batch,
        *,
        step: Int[Array, ""],
        rngs: nnx.Rngs | None,
        teacher: base.Teacher | None = None,
    ) -> Loss:
        """Both losses on one encoding. The terms are the non-autoregressive decoder's, and
        `autoregressive`, the other's nats per token."""
        encoded = self.encode(batch.source, rngs=rngs)
        at_once = self.loss_of(encoded, batch, step=step, rngs=rngs)
        logits = autoregressive.causal_logits(
            self.target_embedding, self.causal_decoder, encoded, batch.target, rngs=rngs
        )
        smoothed, plain = cross_entropy.smoothed_cross_entropy(
            logits, batch.target, smoothing=self.config.label_smoothing
        )
        weight = self.config.autoregressive_weight
        objective = weight * smoothed.value + (1.0 - weight) * at_once.objective
        return Loss(objective, {**at_once.terms, "autoregressive": plain})

    def decode(  # type: ignore[override]
        self,
        source: Int[Array, "batch source_length"],
        *,
        decoding: LengthBeam | Greedy | Beam | Sampling,
        max_length: int,
        scorer: base.Scorer | None = None,
    ) -> Hypotheses:
        """A scorer is never asked: this model rescores by itself."""
        encoded = self.encode(source)
        if isinstance(decoding, LengthBeam):
            score = self._scorer_of(encoded) if decoding.rescore else None
            return self.best_of_lengths(
                encoded, source, decoding, max_length=max_length, score=score
            )
        return autoregressive.causal_search(
            self.target_embedding,
            self.causal_decoder,
            encoded,
            source,
            decoding,
            max_length=max_length,
        )

    def score(
        self,
        source: Int[Array, "batch source_length"],
        hypotheses: Int[Array, "batch n_best length"],
    ) -> Float[Array, "batch n_best"]:
        """By the autoregressive decoder, also for candidates of other models."""
        return self._scorer_of(self.encode(source))(hypotheses)

    def _scorer_of(
        self, encoded: Encoded
    ) -> Callable[[Int[Array, "batch n_best length"]], Float[Array, "batch n_best"]]:
        def score(
            hypotheses: Int[Array, "batch n_best length"],
        ) -> Float[Array, "batch n_best"]:
            return autoregressive.causal_scores(
                self.target_embedding,
                self.causal_decoder,
                encoded,
                hypotheses,
                length_penalty=self.config.rescoring_length_penalty,
            )

        return score

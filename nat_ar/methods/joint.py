"""One encoder under two decoders, autoregressive and non-autoregressive, trained together.

The length NAT of methods/length_nat.py, with all its options, and beside its decoder the causal one of
methods/autoregressive.py. One model then translates token by token (a LeftToRightDecoding) or all words at once
(LengthBeam), and rescores its own candidates: in Gu et al. 2018 (arXiv:1711.02281, section 3.3) a separate teacher
scores noisy parallel candidates and encodes the source a second time; here the causal decoder scores them on the
states of the first encoding. Hao et al. 2021 (arXiv:2010.12868) train two
decoders over one encoder so that the non-autoregressive one learns from the other; here both serve
afterwards, and the weights of their losses stay fixed."""

import dataclasses
import functools
from typing import ClassVar

from flax import nnx
from jaxtyping import Array, Float, Int

from nat_ar.config_json import ConfigError
from nat_ar.losses import cross_entropy
from nat_ar.methods import autoregressive, base, left_to_right
from nat_ar.methods.length_nat import LengthNat, LengthNatModel
from nat_ar.nn import attention
from nat_ar.nn.decoder import Decoder
from nat_ar.search import limits
from nat_ar.search.base import StepwiseDecoding, require_length_penalty
from nat_ar.search.candidates import Ladder
from nat_ar.search.left_to_right import LeftToRightDecoding
from nat_ar.search.one_pass import LengthBeam
from nat_ar.search.speculative import Speculative
from nat_ar.search.step_function import Blocks
from nat_ar.search.verification import DraftedDecoding
from nat_ar.types import Batch, Encoded, Hypotheses, Internal, Loss


@dataclasses.dataclass(frozen=True)
class Joint(LengthNat):
    """A length NAT and an autoregressive decoder on one encoder, trained together."""

    family: ClassVar[base.Family] = "AR+NAT"
    rescores_itself: ClassVar[bool] = True
    drafts_itself: ClassVar[bool] = True

    decoding: LengthBeam | LeftToRightDecoding = LengthBeam(5, rescore=True)  # type: ignore[assignment]
    """decoding used unless the command says otherwise; LengthBeam by the non-autoregressive decoder,
    with rescore by this model's own autoregressive one, the others by the latter alone"""
    num_autoregressive_layers: int | None = None
    """depth of the autoregressive decoder; None: that of the other, transformer.num_decoder_layers"""
    autoregressive_weight: float = 0.5
    """share of the autoregressive loss; the non-autoregressive one, length loss and all, has the rest"""
    rescoring_length_penalty: float = 1.0
    """candidates are ordered by log p / length ** rescoring_length_penalty"""

    @property
    def variant(self) -> str:
        return type(self).__name__

    def __post_init__(self) -> None:
        super().__post_init__()
        attention.require_steps(self.transformer.attention)
        require_length_penalty(self.rescoring_length_penalty, name="rescoring_length_penalty")
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
    """Inherits from LengthNatModel, against our one-level rule, so that every option of LengthNat, present or
    future, works here."""

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
        states = autoregressive.causal_states(
            self.target_embedding, self.causal_decoder, encoded, batch.target, rngs=rngs
        )
        smoothed, plain = cross_entropy.smoothed_cross_entropy(
            self.target_embedding.predict(states),
            batch.target,
            smoothing=self.config.label_smoothing,
            soft=batch.soft,
        )
        weight = self.config.autoregressive_weight
        objective = weight * smoothed.value + (1.0 - weight) * at_once.objective
        return Loss(objective, {**at_once.terms, "autoregressive": plain})

    def decode(  # type: ignore[override]
        self,
        source: Int[Array, "batch source_length"],
        *,
        decoding: LengthBeam | LeftToRightDecoding,
        max_length: int,
        scorer: base.Scorer | None = None,
        draft: Hypotheses | Blocks | None = None,
        widths: Ladder = limits.width_ladder,
    ) -> Hypotheses:
        """By the half that the decoding belongs to; Speculative by both, unless there is a `draft`. The scorer is
        ignored: this model rescores by itself."""
        left_to_right.require_whole_source(decoding)
        encoded = self.encode(source)
        if isinstance(decoding, DraftedDecoding):
            if draft is None and isinstance(decoding, Speculative):
                draft = self.best_of_lengths(
                    encoded, source, LengthBeam(), max_length=max_length, score=None, widths=widths
                )
            blocks = autoregressive.causal_blocks(
                self.target_embedding, self.causal_decoder, encoded, max_length
            )
            return left_to_right.verify(decoding, blocks, source, draft, max_length=max_length)
        if isinstance(decoding, StepwiseDecoding):
            step, empty_cache = autoregressive.causal_stepper(
                self.target_embedding, self.causal_decoder, encoded, max_length
            )
            return decoding.search(step, empty_cache, source, max_length=max_length)
        score = functools.partial(self.score_encoded, encoded) if decoding.rescore else None
        return self.best_of_lengths(
            encoded, source, decoding, max_length=max_length, score=score, widths=widths
        )

    def internals(  # type: ignore[override]
        self,
        source: Int[Array, "batch source_length"],
        *,
        decoding: LengthBeam | LeftToRightDecoding,
        max_length: int,
    ) -> dict[str, Internal]:
        """Those of AutoregressiveModel or of LengthNatModel, of the half that the decoding belongs to."""
        encoded = self.encode(source)
        if isinstance(decoding, StepwiseDecoding | DraftedDecoding):
            found = self.decode(source, decoding=decoding, max_length=max_length)
            return autoregressive.causal_internals(
                self.target_embedding, self.causal_decoder, encoded, found, source
            )
        score = functools.partial(self.score_encoded, encoded) if decoding.rescore else None
        return self.internals_of(encoded, source, decoding, max_length=max_length, score=score)

    def score(
        self,
        source: Int[Array, "batch source_length"],
        hypotheses: Int[Array, "batch n_best length"],
        *,
        length_penalty: float | None = None,
    ) -> Float[Array, "batch n_best"]:
        """By the autoregressive decoder, also for candidates of other models."""
        return self.score_encoded(self.encode(source), hypotheses, length_penalty=length_penalty)

    def score_encoded(
        self,
        encoded: Encoded,
        hypotheses: Int[Array, "batch n_best length"],
        *,
        length_penalty: float | None = None,
    ) -> Float[Array, "batch n_best"]:
        """log p / length ** length_penalty (None: rescoring_length_penalty), given the encoded source."""
        if length_penalty is None:
            length_penalty = self.config.rescoring_length_penalty
        target = left_to_right.flat_targets(hypotheses)
        states = autoregressive.causal_states(
            self.target_embedding, self.causal_decoder, encoded, target
        )
        logits = self.target_embedding.attend(states)
        scores = left_to_right.normalised_log_p(logits, target, length_penalty)
        return scores.reshape(hypotheses.shape[:2])

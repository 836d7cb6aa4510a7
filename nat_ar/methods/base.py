"""The contract of every method, and the encoder that Transformers share.

A method is a config dataclass with `transformer` (or `network`), a default `decoding` and `build`; what it
builds is a TranslationModel. Everything above (training, translating, evaluating) knows this file only."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from nat_ar.nn import layers
from nat_ar.nn.transformer import Encoder, TransformerConfig
from nat_ar.special_tokens import EOS, PAD
from nat_ar.types import Batch, Encoded, Hypotheses, Loss


class VocabularySizes(NamedTuple):
    """What a model must know of its vocabularies. Joint: source and target share one table."""

    source: int
    target: int
    is_joint: bool


@runtime_checkable
class Scorer(Protocol):
    """Any autoregressive model: rescores the candidates of any other."""

    def score(
        self,
        source: Int[Array, "batch source_length"],
        hypotheses: Int[Array, "batch n_best length"],
    ) -> Float[Array, "batch n_best"]: ...


@runtime_checkable
class Teacher(Scorer, Protocol):
    """A scorer that can also say what it expects at every position, for fine-tuning against it."""

    def logits(
        self,
        source: Int[Array, "batch source_length"],
        target: Int[Array, "batch target_length"],
    ) -> Float[Array, "batch target_length vocabulary"]: ...


@runtime_checkable
class TranslationModel(Protocol):
    """What training and translating ask of a model."""

    def loss(
        self,
        batch: Batch,
        *,
        step: Int[Array, ""],
        rngs: nnx.Rngs | None,
        teacher: Teacher | None = None,
    ) -> Loss:
        """The objective of one batch. `step` lets a method anneal; `rngs` None: no dropout; `teacher`
        is the frozen autoregressive model where the experiment names one."""
        ...

    def encode(self, source: Int[Array, "batch source_length"]) -> Encoded: ...

    def decode(
        self,
        source: Int[Array, "batch source_length"],
        *,
        decoding: Any,
        max_length: int,
        scorer: Scorer | None = None,
    ) -> Hypotheses:
        """Translations by one of the method's own `decoding` settings. None is longer than
        max_length (static), nor than search.limits.length_limit of its source."""
        ...


@runtime_checkable
class NetworkConfig(Protocol):
    """What is asked of the sizes of any network; nn.transformer.TransformerConfig is one."""

    @property
    def d_model(self) -> int: ...

    @property
    def dtype(self) -> str: ...

    @property
    def max_length(self) -> int | None:
        """Positions that the network knows, source and target each; None: as many as there are."""
        ...


@runtime_checkable
class MethodConfig(Protocol):
    """What a method's config dataclass has besides its own fields, of which one is `transformer`, a
    TransformerConfig, or for another architecture `network`, a NetworkConfig (see network_of).

    A config may also have `needs_fertilities` or `needs_teacher`: where it is True, an experiment whose
    data have no alignments, or that names no teacher, is refused before any work. Where it has
    `rescores_itself`, decodings with `rescore` need no teacher. Where it has `has_own_encoder`, its model
    cannot start with a teacher's encoder.

    A method that cannot produce every target from every source leaves such pairs out of its loss and has
    is_feasible(source_lengths, target_lengths, target_repeats): numpy arrays with a number for each pair of a
    corpus, True where it can. Lengths do not count EOS; repeats are tokens that equal the one before. Training
    says at its start for how many pairs it is False."""

    @property
    def decoding(self) -> Any:
        """The decoding that validation and translating use unless told otherwise; the annotation of
        the field is the union of all that the method can do."""
        ...

    def build(self, sizes: VocabularySizes, *, rngs: nnx.Rngs) -> TranslationModel: ...


def network_of(method: MethodConfig) -> NetworkConfig:
    """The sizes of a method's network."""
    return getattr(method, "network" if hasattr(method, "network") else "transformer")


def lengths_of(token_ids: Int[Array, "*axes length"]) -> Int[Array, "*axes"]:
    """Tokens of each right-padded row."""
    return (token_ids != PAD).sum(axis=-1).astype(jnp.int32)


def without_eos(target: Int[Array, "batch length"]) -> Int[Array, "batch length"]:
    """The target as one-pass models see it: their length says where it ends."""
    return jnp.where(target == EOS, PAD, target)


class Embedded(nnx.Module):
    """The embeddings of source and target, one table where the vocabularies are joint."""

    def __init__(self, d_model: int, dtype: str, sizes: VocabularySizes, *, rngs: nnx.Rngs) -> None:
        self.target_embedding = layers.Embedding(sizes.target, d_model, dtype=dtype, rngs=rngs)
        self.source_embedding = (
            None
            if sizes.is_joint
            else layers.Embedding(sizes.source, d_model, dtype=dtype, rngs=rngs)
        )

    def embed_source(
        self, source: Int[Array, "batch length"]
    ) -> Float[Array, "batch length d_model"]:
        is_joint = self.source_embedding is None
        return (self.target_embedding if is_joint else self.source_embedding)(source)  # type: ignore[misc]


class Seq2Seq(Embedded):
    """Embeddings and encoder, the same for every Transformer with an encoder, so that a student can
    start from its teacher's."""

    def __init__(
        self, transformer: TransformerConfig, sizes: VocabularySizes, *, rngs: nnx.Rngs
    ) -> None:
        super().__init__(transformer.d_model, transformer.dtype, sizes, rngs=rngs)
        self.encoder = Encoder(transformer, rngs=rngs)

    @jax.named_scope("encoder")
    def encode(
        self, source: Int[Array, "batch length"], *, rngs: nnx.Rngs | None = None
    ) -> Encoded:
        return self.encoder(self.embed_source(source), lengths_of(source), rngs=rngs)


def start_encoder(student: Embedded, teacher: Embedded) -> None:
    """Gives the student a copy of the teacher's embeddings and encoder (Gu et al. 2018, section 4.2).

    Raises ValueError where they do not fit, and leaves the student as it was."""
    if not isinstance(student, Seq2Seq) or not isinstance(teacher, Seq2Seq):
        raise ValueError(
            "only a Transformer encoder can be handed over, got a teacher that is "
            f"{type(teacher).__name__} and a student that is {type(student).__name__}; set "
            "encoder_from_teacher to False"
        )
    for name in ("target_embedding", "source_embedding"):
        mine, theirs = getattr(student, name), getattr(teacher, name)
        expected, got = (None if x is None else x.table.shape for x in (mine, theirs))
        if expected != got:
            raise ValueError(
                f"the teacher's {name} does not fit the student: expected shape {expected}, got "
                f"{got}; give both the same vocabulary and d_model"
            )
    for field in ("d_hidden", "num_heads", "num_encoder_layers", "norm"):
        expected, got = (getattr(x.encoder.config, field) for x in (student, teacher))
        if expected != got:
            raise ValueError(
                f"the teacher's encoder does not fit the student: expected {field} {expected}, got "
                f"{got}; give both transformers the same"
            )
    for name in ("target_embedding", "source_embedding", "encoder"):
        mine, theirs = getattr(student, name), getattr(teacher, name)
        if mine is not None:
            # Arrays of its own: a train step donates the student's.
            nnx.update(mine, jax.tree.map(jnp.copy, nnx.state(theirs, nnx.Param)))

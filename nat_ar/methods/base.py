"""The contract of every method, and the encoder that Transformers share.

A method is a Method, a config dataclass, and builds a TranslationModel. Everything above (training, translating,
evaluating) knows these two only."""

import abc
import dataclasses
import functools
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from nat_ar import config_json
from nat_ar.nn import layers
from nat_ar.nn.decoder import Decoder
from nat_ar.nn.transformer import Encoder, TransformerConfig
from nat_ar.search.base import Decoding
from nat_ar.search.candidates import Scorer
from nat_ar.special_tokens import NUM_SPECIAL
from nat_ar.types import Batch, Encoded, Hypotheses, Internal, Loss, lengths_of


class VocabularySizes(NamedTuple):
    """The sizes of a model's vocabularies. Joint: source and target share one table."""

    source: int
    target: int
    is_joint: bool


@runtime_checkable
class Teacher(Scorer, Protocol):
    """A scorer whose predictions at every position a student can learn from."""

    def logits(
        self,
        source: Int[Array, "batch source_length"],
        target: Int[Array, "batch target_length"],
    ) -> Float[Array, "batch target_length vocabulary"]: ...


@runtime_checkable
class TranslationModel(Protocol):
    """A model as training and translating use it."""

    def loss(
        self,
        batch: Batch,
        *,
        step: Int[Array, ""],
        rngs: nnx.Rngs | None,
        teacher: Teacher | None = None,
    ) -> Loss:
        """The objective of one batch. `step` lets a method anneal; `rngs` None: no dropout; `teacher` is the
        frozen autoregressive model that the experiment names."""
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
        """Translations by one of the method's decodings, each of at most min(max_length,
        limits.length_limit(source length)) tokens; max_length is static."""
        ...


@runtime_checkable
class NetworkConfig(Protocol):
    """The sizes of any network; nn.transformer.TransformerConfig is one."""

    @property
    def d_model(self) -> int: ...

    @property
    def dtype(self) -> str: ...

    @property
    def max_length(self) -> int | None:
        """Positions that the network knows, source and target each; None: any number."""
        ...


Family = Literal["AR", "NAT", "AR+NAT"]


@dataclasses.dataclass(frozen=True)
class Method(config_json.Open, abc.ABC):
    """The config of a method, and what it can do: abilities are attributes with a default.

    A method's own fields are those of its dataclass. One of them is `transformer`, a TransformerConfig, unless
    `network` is a field or a property of its own; the annotation of `decoding` is the union of the decodings
    that its models have."""

    family: ClassVar[Family] = "NAT"
    """AR: models predict token by token and score translations, so that they may be teacher, rescorer and baseline;
    NAT: all tokens of a pass at once; AR+NAT: one model does both"""
    needs_fertilities: ClassVar[bool] = False
    """the loss reads Batch.fertilities: data without alignments are refused"""
    rescores_itself: ClassVar[bool] = False
    """decodings with `rescore` use the model's own scores and need no teacher"""
    drafts_itself: ClassVar[bool] = False
    """decodings that verify another model's draft have the model's own"""
    has_own_encoder: ClassVar[bool] = False
    """not the Transformer encoder of methods.base.Seq2Seq: cannot start with a teacher's"""

    @property
    @abc.abstractmethod
    def decoding(self) -> Decoding:
        """What validation and translating use unless told otherwise."""

    @abc.abstractmethod
    def build(self, sizes: VocabularySizes, *, rngs: nnx.Rngs) -> nnx.Module:
        """A TranslationModel with random parameters."""

    @property
    def network(self) -> NetworkConfig:
        """The sizes of the network."""
        return self.transformer  # type: ignore[attr-defined]

    @property
    def variant(self) -> str:
        """What papers call the method with its options, such as "CTC + GLAT"; by it tables find published results."""
        return type(self).__name__

    @property
    def needs_teacher(self) -> bool:
        """Whether the loss asks an autoregressive teacher: an experiment without one is refused."""
        return False

    @property
    def proposes(self) -> bool:
        """Whether its models have heads that propose words further on (search/blockwise.py)."""
        return False

    @property
    def learns_distributions(self) -> bool:
        """Whether the loss compares with Batch.soft where that is there: training on a teacher's word distributions is
        refused where not."""
        return False

    def at(self, step: int) -> "Method":
        """The method whose loss an optimizer step takes: this one, or where training has left a stage behind that its
        loss would otherwise go on to compute, the one without it. Both have the same parameters."""
        return self

    def is_feasible(
        self,
        source_lengths: Int[np.ndarray, "pairs"],
        target_lengths: Int[np.ndarray, "pairs"],
        target_repeats: Int[np.ndarray, "pairs"],
    ) -> Bool[np.ndarray, "pairs"]:
        """True for the pairs of a corpus whose target the method can produce from its source; the loss leaves
        the others out, and training reports their number. Lengths do not count EOS; repeats are the tokens that
        equal the one before."""
        return np.ones(len(source_lengths), np.bool_)


class TokenEmbeddings(nnx.Module):
    """The embeddings of source and target: one table for a joint vocabulary."""

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

    def internals(
        self, source: Int[Array, "batch source_length"], *, decoding: Any, max_length: int
    ) -> dict[str, Internal]:
        """What the method computes on its way to the translation that `decode` gives without a scorer, by name; for
        notebooks and explorers, at no cost to `decode`. Empty unless a method has something to show."""
        return {}


class Seq2Seq(TokenEmbeddings):
    """Embeddings and encoder, the same for every method with a Transformer encoder, so that a student can start
    from its teacher's."""

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


ENCODER = ("target_embedding", "source_embedding", "encoder")
"""The modules of a Seq2Seq that `start_encoder` copies."""


def names_of(path: tuple[Any, ...]) -> tuple[str, ...]:
    """The modules on the path of a parameter in a model's state, and its own name."""
    text = jax.tree_util.keystr(path, simple=True, separator=".")
    return tuple(text.removesuffix(".value").split("."))


def is_encoder(path: tuple[Any, ...]) -> bool:
    """Whether a parameter belongs to what `start_encoder` copies."""
    return names_of(path)[0] in ENCODER


def _shapes(module: nnx.Module) -> Any:
    return jax.tree.map(jnp.shape, nnx.to_pure_dict(nnx.state(module)))


def start_encoder(student: nnx.Module, teacher: nnx.Module) -> None:
    """Gives the student a copy of the teacher's embeddings and encoder (Gu et al. 2018, section 4.2).

    Raises ValueError if they do not fit, and leaves the student as it was."""
    if not isinstance(student, Seq2Seq) or not isinstance(teacher, Seq2Seq):
        raise ValueError(
            "expected a teacher and a student with a Transformer encoder, got "
            f"{type(teacher).__name__} and {type(student).__name__}; set encoder_from_teacher to False"
        )
    for name in ("target_embedding", "source_embedding"):
        mine, theirs = getattr(student, name), getattr(teacher, name)
        expected, got = (None if x is None else x.table.shape for x in (mine, theirs))
        if expected != got:
            raise ValueError(
                f"the teacher's {name} does not fit the student: expected shape {expected}, got "
                f"{got}; give both the same vocabulary and d_model"
            )
    same_shapes = _shapes(student.encoder) == _shapes(teacher.encoder)
    for field in (
        "d_hidden",
        "num_heads",
        "num_encoder_layers",
        "norm",
        "attention",
        "positions",
        "encoder_attention",
        *(() if same_shapes else ("max_length",)),  # the rows of a table of positions
    ):
        expected, got = (getattr(x.encoder.config, field) for x in (student, teacher))
        if expected != got:
            raise ValueError(
                f"the teacher's encoder does not fit the student: expected {field} {expected}, got "
                f"{got}; give both transformers the same"
            )
    for name in ENCODER:
        mine, theirs = getattr(student, name), getattr(teacher, name)
        if mine is not None:
            # Copies: a train step donates the student's arrays.
            nnx.update(mine, jax.tree.map(jnp.copy, nnx.state(theirs)))


def has_encoder_of(model: nnx.Module, other: nnx.Module) -> bool:
    """Whether both models encode a source to the same states, bit for bit: equal embeddings and encoders."""
    if not isinstance(model, Seq2Seq) or not isinstance(other, Seq2Seq):
        return False
    mine, theirs = (
        dataclasses.replace(x.encoder.config, num_decoder_layers=1, dropout_rate=0.0)
        for x in (model, other)
    )
    states = [
        dict(
            jax.tree.leaves_with_path(nnx.to_pure_dict(nnx.state([getattr(x, n) for n in ENCODER])))
        )
        for x in (model, other)
    ]
    if mine != theirs or states[0].keys() != states[1].keys():
        return False
    return all(np.array_equal(leaf, states[1][path]) for path, leaf in states[0].items())


def start_decoder(student: Any, teacher: nnx.Module) -> list[str]:
    """Gives the student, a model, a copy of those parameters of the teacher's decoder that have the path and the shape
    of its own, and returns the names of its decoder's modules that keep random ones.

    Raises ValueError where nothing fits, or where equal shapes would not mean the same."""
    fitting, anew = _fitting_decoder(student, teacher)
    copies = [(path, jax.tree.map(jnp.copy, variable)) for path, variable in fitting]
    nnx.update(student.decoder, nnx.from_flat_state(copies))
    return anew


def check_decoder(student: Method, teacher: Method) -> None:
    """Raises ValueError where `start_decoder` would, whatever the vocabulary; no parameters are made."""
    _fitting_decoder(_shapes_of(student), _shapes_of(teacher))


@functools.lru_cache(maxsize=64)
def _shapes_of(method: Method) -> nnx.Module:
    """A model whose parameters are shapes. It takes a second, and a study is checked whenever a copy of it is made."""
    sizes = VocabularySizes(NUM_SPECIAL + 1, NUM_SPECIAL + 1, is_joint=True)
    return nnx.eval_shape(lambda: method.build(sizes, rngs=nnx.Rngs(0)))


def _fitting_decoder(
    student: nnx.Module, teacher: nnx.Module
) -> tuple[list[tuple[Any, Any]], list[str]]:
    """What the student's decoder can take from the teacher's, by path, and the names of the others' modules."""
    mine, theirs = (getattr(model, "decoder", None) for model in (student, teacher))
    if not isinstance(mine, Decoder) or not isinstance(theirs, Decoder):
        raise ValueError(
            "expected a teacher and a student with a Transformer decoder, got "
            f"{type(teacher).__name__} and {type(student).__name__}; set decoder_from_teacher to False"
        )
    for field in ("num_heads", "norm", "attention", "positions"):
        expected, got = (getattr(decoder.config, field) for decoder in (mine, theirs))
        if expected != got:
            raise ValueError(
                f"the teacher's decoder does not fit the student: expected {field} {expected}, got {got}; "
                "give both transformers the same"
            )
    taught = dict(nnx.to_flat_state(nnx.state(theirs)))
    own = nnx.to_flat_state(nnx.state(mine))
    fits = {path: path in taught and taught[path].shape == variable.shape for path, variable in own}
    if not any(fits.values()):
        sizes = [(decoder.config.d_model, decoder.config.d_hidden) for decoder in (mine, theirs)]
        raise ValueError(
            "nothing of the teacher's decoder fits the student: expected d_model and d_hidden "
            f"{sizes[0]}, got {sizes[1]}; give both transformers the same"
        )
    anew = dict.fromkeys(".".join(map(str, path[:3])) for path in fits if not fits[path])
    return [(path, taught[path]) for path in fits if fits[path]], list(anew)

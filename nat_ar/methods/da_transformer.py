"""Directed Acyclic Transformer (Huang et al. 2022, arXiv:2205.07459).

The decoder has several positions for each source token: the vertices of a directed acyclic graph. All at once, each
predicts a distribution of tokens and one of the next vertex, further right, on a translation's path; training
maximises the sum over all paths that emit the target, so that different translations can live side by side on
different paths, without distillation. Training glances along the best path (section 3.3): a first pass determines
it, and the second pass sees some of its tokens.

What differs from the paper:
- BOS and EOS are not emitted: a path starts at vertex 0 and ends at the last vertex;
- decoder inputs are copies of the source embeddings, each token's for all of its vertices (uniform copies, Gu et al.
  2018), or of the encoder's states, as those of CTC's frames (`inputs="states"`; "split" with a linear map for each
  vertex of a token); `inputs="positions"` is the paper's: nothing but the vertex's position. Positions are sinusoidal,
  and each of a source token's vertices has a learned vector (`vertex_embeddings`): sinusoids of neighbours are so alike
  that two ways to say a thing came to share their vertices, each of which then emitted words of both. The authors'
  code learns a vector for each position of the graph, once for the decoder and once for the transitions:
  `learned_positions`;
- a glanced token has probability 1 at its vertex, and the vertex emits no other (the authors' code keeps the vertex's
  own probability of the token, without its gradient);
- the loss is a mean over tokens; the authors' code takes sentences for equal (`loss_mean`);
- beam search sums over all paths of a prefix, not only over those in the beam; no n-gram model;
- sentences whose target does not fit into the graph are left out of the loss and counted as `infeasible`; the
  authors' code trims them.

As in the authors' code, the features of transitions are the decoder states beside encodings of the positions, and a
glanced token keeps the vector of its vertex. `fuzzy_alignment` is the objective of FA-DAT (Ma et al. 2023), to go on
from a trained model; `transition_smoothing` and `link_scale`, which keep transitions even for longer, are ours.

Training never holds the logits of all vertices, several times a batch's tokens times the vocabulary: the loss needs
only those of the target's tokens, and the normaliser of each vertex. At 32 sentences of 30 tokens,
240 vertices and 6,000 words value and gradient need 561 MiB of temporary memory instead of 887."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.losses import chosen_words, cross_entropy
from nat_ar.losses.fuzzy_alignment import FuzzyAlignment
from nat_ar.methods import base
from nat_ar.methods.glancing import Glancing, judge
from nat_ar.methods.graph import (
    Links,
    TargetGraph,
    TransitionSmoothing,
    VertexEmbedding,
    shown_graph,
    shown_path,
    words_at_vertices,
)
from nat_ar.nn import layers, upsampling
from nat_ar.nn.decoder import Decoder
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.search import limits
from nat_ar.search.dag import Graph, GraphDecoding, Lookahead
from nat_ar.special_tokens import EOS, MASK, PAD
from nat_ar.types import (
    Batch,
    Encoded,
    Hypotheses,
    Internal,
    Loss,
    Mean,
    append_eos,
    lengths_of,
)


@dataclasses.dataclass(frozen=True)
class DaTransformer(base.Method):
    """Directed Acyclic Transformer (Huang et al. 2022)."""

    transformer: TransformerConfig = TransformerConfig()
    """sizes of encoder and decoder; max_length counts tokens, not vertices"""
    upsample_factor: int = 8
    """vertices for each source token, EOS counted; 8 in the paper, 4 is lighter on a CPU"""
    num_link_heads: int = 4
    """heads of the transitions, mixed by a gate; d_model must be divisible by it"""
    inputs: Literal["uniform", "states", "split", "positions"] = "uniform"
    """decoder inputs: the embedding of each vertex's source token, the encoder's state of it, that state through a
    linear map for the first, second, ... vertex of a token, or the same vector for all vertices, which then know their
    position only"""
    layout: Literal["token", "even"] = "token"
    """token: every source token has its upsample_factor vertices; even: of version 0.1, by rounding, so that a token
    may have fewer or more, two of them with one vector, and a glanced token hides its vertex's vector"""
    vertex_embeddings: bool = True
    """a learned vector for the first, second, ... vertex of every source token tells them apart"""
    learned_positions: int | None = None
    """so many vertices of a graph, from the first on, have learned vectors, in the decoder's inputs and in the
    transitions, beside their sinusoids; those beyond have none. None: none has"""
    link_scale: float = 1.0
    """factor of the transitions' initial parameters: near 0, all transitions start alike"""
    glancing: Glancing | None = Glancing(start_ratio=0.5, end_ratio=0.1, anneal_steps=200_000)
    """how much of the best path the decoder sees in training; None: nothing, and a single pass"""
    label_smoothing: float = 0.0
    """share of each vertex's log p that is the mean over the vocabulary instead of the target token's"""
    transition_smoothing: TransitionSmoothing | None = None
    """training mixes the transitions with even ones, which keeps paths open; None: none"""
    loss_mean: Literal["tokens", "sentences"] = "tokens"
    """the objective: nats of a batch by its tokens, or nats a token of each sentence by sentences"""
    fuzzy_alignment: FuzzyAlignment | None = None
    """the objective is the expected overlap of n-grams, to go on from a trained model; None: the likelihood"""
    decoding: GraphDecoding = Lookahead()
    """decoding used unless the command says otherwise"""

    @classmethod
    def upgraded(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Version 0.1 spread the source evenly, and had none of the choices that came with `layout`."""
        if "layout" in data:
            return data
        none = ("learned_positions", "transition_smoothing", "fuzzy_alignment")
        values = {"layout": "even", "link_scale": 1.0, "loss_mean": "tokens"}
        return {**data, **values, **dict.fromkeys(none)}

    def __post_init__(self) -> None:
        if self.upsample_factor < 2:
            raise ConfigError(
                "upsample_factor must be at least 2, for the first and the last vertex of a graph, got "
                f"{self.upsample_factor}"
            )
        if self.num_link_heads < 1 or self.transformer.d_model % self.num_link_heads:
            raise ConfigError(
                "d_model must be divisible by num_link_heads, got d_model "
                f"{self.transformer.d_model} and num_link_heads {self.num_link_heads}; change one "
                "of them"
            )
        if self.learned_positions is not None and self.learned_positions < 1:
            raise ConfigError(
                f"learned_positions must be at least 1, or None, got {self.learned_positions}"
            )
        if self.layout == "even" and self.inputs in ("states", "split"):
            raise ConfigError(
                f"inputs {self.inputs!r} gives every source token its upsample_factor vertices, got layout 'even', "
                "which does not; set layout to 'token'"
            )
        if self.fuzzy_alignment is not None and (self.label_smoothing or self.transition_smoothing):
            raise ConfigError(
                "fuzzy_alignment takes the place of the likelihood, which label_smoothing and transition_smoothing "
                "are for; set them to 0 and None"
            )
        if self.link_scale <= 0.0:
            raise ConfigError(f"link_scale must be above 0, got {self.link_scale}")
        config_json.require_share("label_smoothing", self.label_smoothing, may_be_one=False)

    def is_feasible(
        self,
        source_lengths: Int[np.ndarray, "pairs"],
        target_lengths: Int[np.ndarray, "pairs"],
        target_repeats: Int[np.ndarray, "pairs"],
    ) -> Bool[np.ndarray, "pairs"]:
        """True for pairs with a vertex for every word between the first and the last vertex."""
        return target_lengths <= self.upsample_factor * (source_lengths + 1) - 2

    @property
    def variant(self) -> str:
        return "DA-Transformer" if self.fuzzy_alignment is None else "FA-DAT"

    def build(self, sizes: base.VocabularySizes, *, rngs: nnx.Rngs) -> "DaTransformerModel":
        return DaTransformerModel(self, sizes, rngs=rngs)


class DaTransformerModel(base.Seq2Seq):
    def __init__(
        self, config: DaTransformer, sizes: base.VocabularySizes, *, rngs: nnx.Rngs
    ) -> None:
        super().__init__(config.transformer, sizes, rngs=rngs)
        transformer = config.transformer
        vertices = transformer.max_length * config.upsample_factor
        self.decoder = Decoder(dataclasses.replace(transformer, max_length=vertices), rngs=rngs)
        d_model, dtype = transformer.d_model, transformer.dtype
        self.links = Links(
            d_model,
            config.num_link_heads,
            learned_positions=config.learned_positions,
            scale=config.link_scale,
            dtype=dtype,
            rngs=rngs,
        )
        self.vertex_embedding = (
            layers.Embedding(config.upsample_factor, d_model, dtype=dtype, rngs=rngs)
            if config.vertex_embeddings
            else None
        )
        self.learned_positions = (
            None
            if config.learned_positions is None
            else VertexEmbedding(config.learned_positions, d_model, dtype=dtype, rngs=rngs)
        )
        self.splitter = (
            layers.Linear(d_model, d_model, parts=config.upsample_factor, dtype=dtype, rngs=rngs)
            if config.inputs == "split"
            else None
        )
        self.config = config

    def decoder_inputs(
        self,
        source: Int[Array, "batch source_length"],
        encoded: Encoded,
        shown: Int[Array, "batch graph"] | None = None,
    ) -> Float[Array, "batch graph d_model"]:
        """An input for each vertex; `shown` is the token of each vertex that glancing reveals, PAD elsewhere."""
        factor, is_even = self.config.upsample_factor, self.config.layout == "even"
        graph = factor * source.shape[1]
        if self.config.inputs == "positions":
            hidden = self.target_embedding(jnp.int32(MASK))
            inputs = jnp.broadcast_to(hidden, (source.shape[0], graph, hidden.shape[0]))
        elif self.splitter is not None:
            inputs = upsampling.split(self.splitter(encoded.states), factor)
        elif self.config.inputs == "states":
            inputs = upsampling.repeat(encoded.states, factor)
        elif is_even:
            lengths = encoded.lengths
            places = upsampling.uniform_sources(lengths, lengths * factor, graph)
            inputs = upsampling.copy(self.embed_source(source), places)
        else:
            inputs = upsampling.repeat(self.embed_source(source), factor)
        vectors = self.vertex_vectors(graph)
        if is_even:
            inputs = inputs + vectors
        if shown is not None:
            inputs = jnp.where((shown != PAD)[..., None], self.target_embedding(shown), inputs)
        return inputs if is_even else inputs + vectors

    def vertex_vectors(self, graph: int) -> Float[Array, "graph d_model"]:
        """What is learned of each vertex, whatever it copies or shows."""
        transformer = self.config.transformer
        vectors = jnp.zeros((graph, transformer.d_model), transformer.dtype)
        if self.vertex_embedding is not None:
            vectors += self.vertex_embedding(jnp.arange(graph) % self.config.upsample_factor)
        if self.learned_positions is not None:
            vectors += self.learned_positions(graph)
        return vectors

    def graph_lengths(self, encoded: Encoded) -> Int[Array, "batch"]:
        return self.config.upsample_factor * encoded.lengths

    def states(
        self,
        source: Int[Array, "batch source_length"],
        encoded: Encoded,
        shown: Int[Array, "batch graph"] | None = None,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch graph d_model"]:
        """One decoder pass."""
        inputs = self.decoder_inputs(source, encoded, shown)
        return self.decoder(inputs, self.graph_lengths(encoded), encoded, rngs=rngs)

    def graph(self, source: Int[Array, "batch source_length"], encoded: Encoded) -> Graph:
        """The graph that decoding searches."""
        states, lengths = self.states(source, encoded), self.graph_lengths(encoded)
        return Graph(self.target_embedding.attend(states), self.links(states, lengths), lengths)

    def target_graph(
        self,
        states: Float[Array, "batch graph d_model"],
        encoded: Encoded,
        target: Int[Array, "batch target_length"],
    ) -> TargetGraph:
        """The states of a decoder pass as the loss sees them."""
        embedding, smoothing = self.target_embedding, self.config.label_smoothing
        lengths = self.graph_lengths(encoded)
        chosen, normalisers, mean = words_at_vertices(embedding, states, target, lengths)
        normalisers = normalisers[:, None]
        is_eos = (target == EOS)[..., None]
        emissions, smoothed = jnp.where(is_eos, 0.0, chosen - normalisers), None
        if smoothing > 0.0:
            uniform = jnp.where(is_eos, 0.0, mean[:, None] - normalisers)
            smoothed = (1.0 - smoothing) * emissions + smoothing * uniform
        return TargetGraph(
            emissions, smoothed, self.links(states, lengths), lengths_of(target), lengths
        )

    def loss(
        self,
        batch: Batch,
        *,
        step: Int[Array, ""],
        rngs: nnx.Rngs | None,
        teacher: base.Teacher | None = None,
    ) -> Loss:
        """Nats per target token, EOS counted, of the sum over all paths. Without rngs there is no glancing; with
        them, the term `token` is of the first pass, in which nothing is revealed, and `glanced` of the second."""
        encoded, target = self.encode(batch.source, rngs=rngs), batch.target
        settings, smoothing = self.config.glancing, self.config.transition_smoothing
        even_share = None if rngs is None or smoothing is None else smoothing.share(step)
        if rngs is None or settings is None:
            states = self.states(batch.source, encoded, rngs=rngs)
            graph = self.target_graph(states, encoded, target)
            objective, terms = self.learned(graph, graph, target, even_share)
            return Loss(objective, {**terms, "infeasible": graph.infeasible()})

        key = rngs.dropout()  # one key: the same dropout in both passes
        states = self.states(batch.source, encoded, rngs=nnx.Rngs(dropout=key))
        states = jax.lax.stop_gradient(states)
        first = jax.lax.stop_gradient(self.target_graph(states, encoded, target))
        path = first.best_path()
        is_word = (target != PAD) & (target != EOS) & first.has_path()[:, None]
        is_wrong = self.wrong_words(states, path, target, is_word)
        is_revealed = settings.revealed(is_wrong, is_word, step, rngs.dropout())
        vertices = jnp.arange(states.shape[1])
        is_at = is_revealed[..., None] & (path[..., None] == vertices)  # [batch, target, graph]
        shown = jnp.where(is_at, target[..., None], PAD).max(axis=1)

        states = self.states(batch.source, encoded, shown, rngs=nnx.Rngs(dropout=key))
        second = self.target_graph(states, encoded, target)
        objective, terms = self.learned(second, second.showing(is_at), target, even_share)
        terms = {
            **terms,
            "token": first.per_token(first.nats()[1]),
            "glanced": terms["token"],
            "wrong": cross_entropy.masked_mean(is_wrong.astype(jnp.float32), is_word),
            "revealed": cross_entropy.masked_mean(is_revealed.astype(jnp.float32), is_word),
            "move_entropy": first.move_entropy(path),
            "infeasible": first.infeasible(),
        }
        return Loss(objective, terms)

    def learned(
        self,
        graph: TargetGraph,
        certain: TargetGraph,
        target: Int[Array, "batch target_length"],
        even_share: Float[Array, ""] | None,
    ) -> tuple[Float[Array, ""], dict[str, Mean]]:
        """The objective and its terms; `certain` is the graph with the glanced tokens at their vertices, which the
        likelihood takes for given. `token` is without any smoothing."""
        settings = self.config.fuzzy_alignment
        if settings is not None:
            overlap, has_path = graph.overlap(target, settings.ngram), graph.has_path()
            terms = {
                "precision": cross_entropy.masked_mean(overlap.precision, has_path),
                "brevity": cross_entropy.masked_mean(overlap.brevity, has_path),
                "token": certain.per_token(jax.lax.stop_gradient(certain.nats()[1])),
            }
            score = cross_entropy.masked_mean(overlap.precision * overlap.brevity, has_path)
            return -score.value, terms
        nats, plain = certain.nats(even_share)
        mean = certain.per_token if self.config.loss_mean == "tokens" else certain.per_sentence
        return mean(nats).value, {"token": certain.per_token(plain)}

    def wrong_words(
        self,
        states: Float[Array, "batch graph d_model"],
        path: Int[Array, "batch target_length"],
        target: Int[Array, "batch target_length"],
        is_word: Bool[Array, "batch target_length"],
    ) -> Bool[Array, "batch target_length"]:
        """Where the vertex of a word on a path has another token that is more probable."""
        on_path = jnp.take_along_axis(states, path[..., None], axis=1)
        prediction = self.target_embedding.predict(on_path.reshape(target.size, -1))
        prediction = jax.lax.stop_gradient(prediction)
        _, (is_wrong, _) = chosen_words.total(
            judge, prediction, target.reshape(-1, 1), None, is_word.reshape(-1)
        )
        return is_wrong.reshape(target.shape)

    def decode(
        self,
        source: Int[Array, "batch source_length"],
        *,
        decoding: GraphDecoding,
        max_length: int,
        scorer: base.Scorer | None = None,
    ) -> Hypotheses:
        """Scores: see the decodings of search.dag."""
        encoded = self.encode(source)
        return decoding.search(
            self.graph(source, encoded),
            length_limits=limits.within(max_length, encoded.lengths),
            max_length=max_length,
        )

    def internals(
        self,
        source: Int[Array, "batch source_length"],
        *,
        decoding: GraphDecoding,
        max_length: int,
    ) -> dict[str, Internal]:
        """The graph: `transitions`, p of the moves, `vertex_tokens`, the best token of each vertex, with
        `vertex_log_probabilities`, and `visits`, the probability that a random path visits a vertex. Of the best
        translation, EOS included: `path`, its most probable vertices from 0 to the last, `path_tokens`, and
        `move_log_probabilities` and `token_log_probabilities`, of each move and of the token behind it."""
        encoded = self.encode(source)
        states, lengths = self.states(source, encoded), self.graph_lengths(encoded)
        graph = Graph(self.target_embedding.attend(states), self.links(states, lengths), lengths)
        found = decoding.search(
            graph, length_limits=limits.within(max_length, encoded.lengths), max_length=max_length
        )
        target = jnp.where(lengths[:, None] > 0, append_eos(found.tokens[:, 0]), PAD)
        shown = shown_path(graph, self.target_graph(states, encoded, target), target)
        return {**shown_graph(graph), **shown}

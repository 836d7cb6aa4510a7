"""The systems of the benchmark: base models with random weights whose translations have a known length.

A translation has 25 target positions. An autoregressive decoder takes 25 steps for it, 24 tokens and an EOS that the
length limit forces; a non-autoregressive one fills all 25 positions with tokens. Random weights know nothing of length,
so every way to end early is closed, and a translation that is shorter all the same is an error:

- the embeddings of all special tokens are zero, hence their logits, too: among thousands of random logits these are
  never the largest, so no decoder produces EOS and no frame of CTC is blank;
- length predictors have no weights and a bias that falls with the distance from the source's length, so the best
  length is the source's; fertilities are 1 by a bias;
- the transitions of the DA-Transformer depend on positions only and prefer the next vertex to any other, so its path is
  as long as the limit allows.

Neighbouring frames of CTC may have the same token and collapse, so its translations may be shorter. All frames are
computed and searched in any case: the work is the same.

None of this changes what is computed: no product is left out, no array is smaller."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Int

from nat_ar.evaluation.speed import clock, floor, machine
from nat_ar.evaluation.speed.floor import Cost
from nat_ar.evaluation.speed.machine import Peaks
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.base import VocabularySizes
from nat_ar.methods.catalogue import AnyMethod
from nat_ar.methods.cmlm import Cmlm, CmlmModel
from nat_ar.methods.ctc import Ctc
from nat_ar.methods.da_transformer import DaTransformer, DaTransformerModel
from nat_ar.methods.fertility_nat import FertilityNat, FertilityNatModel
from nat_ar.methods.graph import Links
from nat_ar.methods.length_nat import LengthNat, LengthNatModel
from nat_ar.methods.length_prediction import LengthPredictor
from nat_ar.nn import positions
from nat_ar.nn.packed import Weights
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.runtime import compilation
from nat_ar.search.beam import Beam
from nat_ar.search.ctc import BestPath, PrefixBeam
from nat_ar.search.dag import Lookahead
from nat_ar.search.fertility import Argmax
from nat_ar.search.greedy import Greedy
from nat_ar.search.one_pass import LengthBeam
from nat_ar.search.refinement import MaskPredict
from nat_ar.special_tokens import EOS, NUM_SPECIAL, PAD
from nat_ar.translation.model import Model
from nat_ar.translation.translator import bucket_of
from nat_ar.types import Hypotheses


@dataclasses.dataclass(frozen=True)
class Scale:
    """Sizes and durations of all sections."""

    transformer: TransformerConfig
    """for decoding; training adds dropout"""
    vocabulary: int
    """joint"""
    positions: int
    """of a translation; a source has one token more, its EOS counted"""
    batches: tuple[int, ...]
    """sentences of a batch in the throughput curve; the first and `large` get tables of their own"""
    large: int
    lengths: tuple[int, ...]
    """positions in the section of lengths"""
    train_sentences: int
    """of a training batch"""
    pairs: tuple[int, int]
    """generated pairs that are prepared, few and many"""
    seconds: float
    """of turns for each table, besides compiling and warming up"""


FULL = Scale(
    TransformerConfig(
        d_model=256,
        d_hidden=1024,
        num_heads=4,
        num_encoder_layers=6,
        num_decoder_layers=6,
        dropout_rate=0.0,
    ),
    vocabulary=8000,
    positions=25,
    batches=(1, 8, 32),
    large=32,
    lengths=(10, 25, 50, 100),
    train_sentences=80,
    pairs=(40_000, 120_000),
    seconds=10.0,
)
QUICK = Scale(
    TransformerConfig(
        d_model=32,
        d_hidden=64,
        num_heads=2,
        num_encoder_layers=2,
        num_decoder_layers=2,
        dropout_rate=0.0,
    ),
    vocabulary=600,
    positions=11,  # mask-predict in ten passes hides a word in each
    batches=(1, 4),
    large=4,
    lengths=(11, 14),
    train_sentences=8,
    pairs=(1500, 3000),
    seconds=0.2,
)
"""For checking that every section works; its numbers mean nothing."""


@dataclasses.dataclass(frozen=True)
class System:
    """A method under one decoding."""

    name: str
    """in figures and in the record"""
    label: str
    """in tables"""
    method: AnyMethod
    decoding: Any
    passes: int | None = None
    """decoder passes of a translation; None: one for every position, left to right"""
    weights: Weights = "float32"
    """of matrix products"""

    def decoder_passes(self, positions: int) -> int:
        return positions if self.passes is None else self.passes

    def words(self, positions: int) -> int:
        """Tokens of a translation of so many positions: left to right, the last one is EOS."""
        return positions - 1 if self.passes is None else positions

    @property
    def may_be_shorter(self) -> bool:
        """Whether a shorter translation is the same work, but for some moves of a walk through a graph that is computed
        in any case."""
        is_walk = isinstance(self.method, DaTransformer) and self.weights == "int8"
        return isinstance(self.method, Ctc) or is_walk


WITH_INT8 = ("greedy", "beam_4", "length_nat", "ctc", "da")
"""Systems that are timed with weights of 8 bits as well."""


def systems(transformer: TransformerConfig) -> dict[str, System]:
    """All systems by name; the baselines of the ratios come first."""
    layers = transformer.num_encoder_layers + transformer.num_decoder_layers
    deep = dataclasses.replace(transformer, num_encoder_layers=layers, num_decoder_layers=1)
    plain = f"{transformer.num_encoder_layers}-{transformer.num_decoder_layers}"
    greedy = Autoregressive(transformer)
    length, ctc, cmlm = LengthNat(transformer), Ctc(transformer), Cmlm(transformer)
    listed = (
        System("greedy", f"AR {plain}, greedy", greedy, Greedy()),
        System("beam_4", f"AR {plain}, beam 4", greedy, Beam(4)),
        System("deep_greedy", f"AR {layers}-1, greedy", Autoregressive(deep), Greedy()),
        System("length_nat", "length NAT, one pass", length, LengthBeam(), 1),
        System("length_beam_5", "length NAT, length beam 5", length, LengthBeam(5, n_best=5), 1),
        System("fertility_nat", "fertility NAT, argmax", FertilityNat(transformer), Argmax(), 1),
        System("ctc", "CTC, best path", ctc, BestPath(), 1),
        System("ctc_beam_20", "CTC, prefix beam 20", ctc, PrefixBeam(20), 1),
        System("da", "DA-Transformer, lookahead", DaTransformer(transformer), Lookahead(), 1),
        System("cmlm_4", "CMLM, 4 passes, one length", cmlm, MaskPredict(4, 1), 4),
        System("cmlm_10", "CMLM, 10 passes, one length", cmlm, MaskPredict(10, 1), 10),
    )
    rounded = (
        dataclasses.replace(
            system,
            name=name_of(system.name, "int8"),
            label=f"{system.label}, int8",
            weights="int8",
        )
        for system in listed
        if system.name in WITH_INT8
    )
    return {system.name: system for system in (*listed, *rounded)}


def name_of(name: str, weights: Weights) -> str:
    """The system of that name with these weights."""
    return name if weights == "float32" else f"{name}_{weights}"


def build(method: AnyMethod, vocabulary: int) -> Model:
    """Random weights that translate to the length of the source; see above."""
    sizes = VocabularySizes(vocabulary, vocabulary, is_joint=True)
    network = method.build(sizes, rngs=nnx.Rngs(0))
    table = network.target_embedding.table  # type: ignore[union-attr]
    table[...] = table[...].at[:NUM_SPECIAL].set(0.0)
    if isinstance(network, LengthNatModel | CmlmModel):
        _predict_the_sources_length(network.length_predictor)
    elif isinstance(network, FertilityNatModel):
        _set(network.fertility_head, bias=10.0 * jnp.eye(network.config.max_fertility)[1])
    elif isinstance(network, DaTransformerModel):
        _walk_to_the_next_vertex(network.links)
    return Model(*nnx.split(network, nnx.Param))


def _set(linear: Any, *, bias: jax.Array, kernel: jax.Array | None = None) -> None:
    linear.kernel[...] = jnp.zeros_like(linear.kernel[...]) if kernel is None else kernel
    linear.bias[...] = bias


def _predict_the_sources_length(predictor: LengthPredictor) -> None:
    offsets = jnp.arange(-predictor.max_offset, predictor.max_offset + 1)
    _set(predictor.head, bias=-jnp.abs(offsets).astype(jnp.float32))


def _walk_to_the_next_vertex(links: Links) -> None:
    """Transitions fall by 20 nats from a vertex to the next, more than any token could gain.

    One feature of each head: the query is 1, and the key falls with the slowest sine of the position, which is
    nearly linear."""
    kernel = np.zeros(links.query_key.kernel[...].shape, np.float32)
    d_model = kernel.shape[0] // 2  # the features are states and positions side by side
    head_dim = d_model // links.num_heads
    channel = d_model // 2 - 1  # the last of the sines
    first, second = positions.sinusoids(2, d_model)[:, channel]
    chosen = np.arange(0, d_model, head_dim)  # one column a head
    kernel[d_model + channel, d_model + chosen] = -20.0 * head_dim**0.5 / (second - first)
    bias = np.zeros(2 * d_model, np.float32)
    bias[chosen] = 1.0
    _set(links.query_key, bias=jnp.asarray(bias), kernel=jnp.asarray(kernel))


def sources(rows: int, tokens: int, vocabulary: int) -> Int[np.ndarray, "rows bucket"]:
    """Random sentences of `tokens` tokens, EOS counted, padded as the Translator pads them."""
    generator = np.random.default_rng(0)
    padded = np.full((rows, bucket_of(tokens)), PAD, np.int32)
    padded[:, :tokens] = generator.integers(NUM_SPECIAL, vocabulary, (rows, tokens))
    padded[:, tokens - 1] = EOS
    return padded


class TooShortError(RuntimeError):
    """A system did less work than it is timed for: its times are void."""


def require_full(
    name: str,
    passes: Int[np.ndarray, "rows"],
    words: Int[np.ndarray, "rows"],
    *,
    expected_passes: int,
    expected_words: int | None,
) -> None:
    """Raises TooShortError unless every row took so many decoder passes and has so many tokens (None: any number)."""
    for what, counts, expected in (
        ("decoder passes", passes, expected_passes),
        ("words", words, expected_words),
    ):
        if expected is not None and (np.asarray(counts) != expected).any():
            raise TooShortError(
                f"{name}: expected {expected} {what} for every sentence, got {sorted(set(counts.tolist()))}: the "
                "system would be timed on less work"
            )


class Program:
    """The compiled decode of one batch. A call translates the batch, from padded token ids on the host to token ids
    on the host."""

    def __init__(self, system: System, model: Model, *, rows: int, positions: int, vocabulary: int):
        self.system, self.model, self.rows, self.positions = system, model, rows, positions
        self.source = sources(rows, positions + 1, vocabulary)
        start = time.perf_counter()
        self.compiled = compilation.compile_ahead(self._function(), *self._arguments())
        self.compile_seconds = time.perf_counter() - start

    def _function(self) -> Callable[[list[jax.Array], jax.Array], Hypotheses]:
        model, decoding = self.model, self.system.decoding
        max_length = self.system.words(self.positions)

        def decode(leaves: list[jax.Array], source: jax.Array) -> Hypotheses:
            return model.decode(leaves, source, decoding=decoding, max_length=max_length)

        return decode

    def _arguments(self) -> tuple[list[jax.Array], jax.Array]:
        return self.model.leaves, jnp.asarray(self.source)

    def __call__(self) -> Int[np.ndarray, "rows n_best length"]:
        return np.asarray(self.compiled(self.model.leaves, self.source).tokens)

    def check(self) -> None:
        """Raises TooShortError if a translation is shorter than the system should make it."""
        hypotheses = jax.device_get(self.compiled(*self._arguments()))
        require_full(
            f"{self.system.label}, batch {self.rows}",
            np.asarray(hypotheses.passes),
            np.asarray((hypotheses.tokens != PAD).sum(axis=-1).max(axis=-1)),
            expected_passes=self.system.decoder_passes(self.positions),
            expected_words=None
            if self.system.may_be_shorter
            else self.system.words(self.positions),
        )

    def cost(self, peaks: Peaks) -> Cost:
        """Of one call; compiles the program again, with counters."""
        counted = floor.compile_counter(self._function(), self._arguments(), (True, False))
        return counted.cost(counted.counts(*self._arguments()), peaks)


class Workshop:
    """Builds each model once, and compiles as many programs at a time as there are cores."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self.models: dict[AnyMethod, Model] = {}
        self.ready: dict[tuple[AnyMethod, Weights], Model] = {}

    def model(self, method: AnyMethod) -> Model:
        if method not in self.models:
            self.models[method] = build(method, self.scale.vocabulary)
        return self.models[method]

    def ready_model(self, system: System) -> Model:
        """The model with its weights packed, as the Translator has it."""
        key = system.method, system.weights
        if key not in self.ready:
            self.ready[key] = self.model(system.method).packed(system.weights)
        return self.ready[key]

    def programs(self, wanted: Sequence[tuple[System, int, int]]) -> list[Program]:
        """The compiled and checked programs of (system, rows, positions)."""
        for system, _, _ in wanted:
            self.ready_model(system)
        with (
            clock.bar("compile", len(wanted), is_quiet=False) as progress,
            ThreadPoolExecutor(machine.num_threads()) as pool,
        ):

            def make(one: tuple[System, int, int]) -> Program:
                system, rows, positions = one
                program = Program(
                    system,
                    self.ready_model(system),
                    rows=rows,
                    positions=positions,
                    vocabulary=self.scale.vocabulary,
                )
                progress.update()
                return program

            programs = list(pool.map(make, wanted))
        for program in programs:
            program.check()
        return programs

    def costs(self, programs: Sequence[Program], peaks: Peaks) -> list[Cost]:
        with clock.bar("count", len(programs), is_quiet=False) as progress:
            costs = []
            for program in programs:
                costs.append(program.cost(peaks))
                progress.update()
        return costs

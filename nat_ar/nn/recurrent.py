"""LSTM encoder and decoder (Hochreiter & Schmidhuber 1997), the decoder with or without attention.

What does not depend on earlier positions is computed for all positions at once, before the scan: one matrix product
gives the inputs' contribution to all four gates. Rows are right-padded, and their lengths are given; the backward
direction starts at the last token of each row. Arrays only: no text, no search."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.nn import layers
from nat_ar.nn.dot_product import NEGATIVE
from nat_ar.types import Encoded, pytree_dataclass

FORGET_BIAS = 1.0
"""Cells keep their content at first (Gers et al. 2000; Jozefowicz et al. 2015, section 5)."""


@dataclasses.dataclass(frozen=True)
class RecurrentConfig(config_json.Config):
    """Sizes and attention of an LSTM encoder and decoder; the defaults suit training on two CPU cores."""

    d_model: int = 256
    """width of embeddings and states; half of it for each direction of the encoder"""
    num_encoder_layers: int = 1
    """encoder depth; every layer is bidirectional"""
    num_decoder_layers: int = 1
    """decoder depth"""
    attention: Literal["none", "additive", "dot"] = "additive"
    """what the decoder sees of the source. none: the encoder's final states only (Sutskever et al. 2014);
    additive (Bahdanau et al. 2015) and dot (Luong et al. 2015): also a weighted mean of all its states"""
    dropout_rate: float = 0.2
    """dropout between layers, on embeddings and before the vocabulary projection (Zaremba et al. 2014)"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """type of activations; parameters and cell states stay float32"""

    def __post_init__(self) -> None:
        if min(self.d_model, self.num_encoder_layers, self.num_decoder_layers) < 1:
            raise ConfigError(
                "d_model, num_encoder_layers and num_decoder_layers must be at least 1, got "
                f"{self.d_model}, {self.num_encoder_layers} and {self.num_decoder_layers}"
            )
        if self.d_model % 2:
            raise ConfigError(
                f"d_model must be even, half for each direction of the encoder, got {self.d_model}"
            )
        config_json.require_share("dropout_rate", self.dropout_rate, may_be_one=False)

    @property
    def max_length(self) -> None:
        """None: a recurrent network has no embeddings of positions, so that sentences of any length fit."""
        return None


@pytree_dataclass
class LstmState:
    """The state of one layer."""

    hidden: Float[Array, "*rows d_hidden"]
    cell: Float[Array, "*rows d_hidden"]


class Lstm(nnx.Module):
    """One layer. The gates i, f, o (sigmoid) and the candidate g (tanh) are computed from linear maps of the input and
    the previous hidden state:

    cell' = f * cell + i * g,    hidden' = o * tanh(cell')

    `d_fed` is the width of a second input that becomes known only one position at a time."""

    def __init__(
        self,
        d_in: int,
        d_hidden: int,
        *,
        d_fed: int = 0,
        dtype: str = "float32",
        rngs: nnx.Rngs,
    ) -> None:
        self.input = layers.Linear(d_in, d_hidden, parts=4, dtype=dtype, rngs=rngs)
        initial = jax.nn.initializers.xavier_uniform()
        kernels = [initial(rngs.params(), (d_fed + d_hidden, d_hidden)) for _ in range(4)]
        self.recurrent = nnx.Param(jnp.concatenate(kernels, axis=1))
        self.d_hidden = d_hidden
        self.dtype = dtype

    def advance(
        self,
        gates: Float[Array, "*rows gates"],
        state: LstmState,
        fed: Float[Array, "*rows d_fed"] | None = None,
    ) -> LstmState:
        """The next state; `gates` is the contribution of the input x to the gates, self.input(x)."""
        before = state.hidden if fed is None else jnp.concatenate([fed, state.hidden], axis=-1)
        kernel = self.recurrent[...].astype(self.dtype)
        flat = before.reshape(-1, before.shape[-1]) @ kernel
        i, f, g, o = jnp.split(gates + flat.reshape(gates.shape), 4, axis=-1)
        kept = jax.nn.sigmoid(f + FORGET_BIAS) * state.cell
        cell = kept + (jax.nn.sigmoid(i) * jnp.tanh(g)).astype(jnp.float32)
        return LstmState((jax.nn.sigmoid(o) * jnp.tanh(cell)).astype(self.dtype), cell)

    def __call__(
        self,
        x: Float[Array, "rows length d_in"],
        lengths: Int[Array, "rows"],
        *,
        is_backward: bool = False,
    ) -> tuple[Float[Array, "rows length d_hidden"], LstmState]:
        """The hidden states of all positions, and the final state of each row (backward: that at position 0). Padding
        does not change a state."""
        gates = self.input(x).swapaxes(0, 1)
        is_token = jnp.arange(x.shape[1])[:, None] < lengths  # [length, rows]

        def advance(
            state: LstmState, item: tuple[Array, Array]
        ) -> tuple[LstmState, Float[Array, "rows d_hidden"]]:
            gates, is_token = item
            new = self.advance(gates, state)
            state = jax.tree.map(lambda n, o: jnp.where(is_token[:, None], n, o), new, state)
            return state, state.hidden

        zeros = jnp.zeros((x.shape[0], self.d_hidden))
        start = LstmState(zeros.astype(self.dtype), zeros)
        last, states = jax.lax.scan(advance, start, (gates, is_token), reverse=is_backward)
        return states.swapaxes(0, 1), last


@pytree_dataclass
class RecurrentEncoded(Encoded):
    """The states of both directions, concatenated, and the final states."""

    last: Float[Array, "batch 2*d_model"]
    """hidden and cell states of the last layer, after the last token of a row (forward) and after its first
    (backward)"""


class RecurrentEncoder(nnx.Module):
    """Source embeddings to states, by bidirectional layers (Schuster & Paliwal 1997)."""

    def __init__(self, config: RecurrentConfig, *, rngs: nnx.Rngs) -> None:
        def layer() -> Lstm:
            return Lstm(config.d_model, config.d_model // 2, dtype=config.dtype, rngs=rngs)

        self.forward = nnx.List([layer() for _ in range(config.num_encoder_layers)])
        self.backward = nnx.List([layer() for _ in range(config.num_encoder_layers)])
        self.config = config

    def __call__(
        self,
        embeddings: Float[Array, "batch length d_model"],
        lengths: Int[Array, "batch"],
        *,
        rngs: nnx.Rngs | None,
    ) -> RecurrentEncoded:
        x = embeddings
        for forward, backward in zip(self.forward, self.backward, strict=True):
            x = layers.dropout(x, self.config.dropout_rate, rngs=rngs)
            ahead, end = forward(x, lengths)
            back, beginning = backward(x, lengths, is_backward=True)
            x = jnp.concatenate([ahead, back], axis=-1)
        last = [end.hidden, beginning.hidden, end.cell, beginning.cell]
        return RecurrentEncoded(x, lengths, jnp.concatenate(last, axis=-1).astype(x.dtype))


def attention_weights(
    scores: Float[Array, "batch queries source_length"], lengths: Int[Array, "batch"]
) -> Float[Array, "batch queries source_length"]:
    """Softmax over the source tokens of each row, in float32; padding gets exactly 0."""
    is_source = jnp.arange(scores.shape[-1]) < lengths[:, None, None]
    return jax.nn.softmax(jnp.where(is_source, scores.astype(jnp.float32), NEGATIVE), axis=-1)


class AdditiveAttention(nnx.Module):
    """Score v . tanh(W query + U state) (Bahdanau et al. 2015, appendix A.1.2)."""

    def __init__(self, d_model: int, *, dtype: str, rngs: nnx.Rngs) -> None:
        self.query = layers.Linear(d_model, d_model, dtype=dtype, rngs=rngs)
        self.key = layers.Linear(d_model, d_model, dtype=dtype, rngs=rngs)
        initial = jax.nn.initializers.normal(d_model**-0.5)
        self.energy = nnx.Param(initial(rngs.params(), (d_model,)))

    def keys(
        self, states: Float[Array, "batch source_length d_model"]
    ) -> Float[Array, "batch source_length d_model"]:
        return self.key(states)

    def scores(
        self,
        query: Float[Array, "batch queries d_model"],
        keys: Float[Array, "batch source_length d_model"],
    ) -> Float[Array, "batch queries source_length"]:
        """The tanh of all pairs is computed again in the backward pass: if a scan kept it for every position, it would
        take target_length times the memory of the source states."""

        def energies(query: Array, keys: Array, energy: Array) -> Array:
            return jnp.tanh(query[:, :, None] + keys[:, None]) @ energy

        energy = self.energy[...].astype(keys.dtype)
        return jax.checkpoint(energies, prevent_cse=False)(self.query(query), keys, energy)


class DotAttention(nnx.Module):
    """Score query . state (Luong et al. 2015, section 3.1, "dot")."""

    def keys(
        self, states: Float[Array, "batch source_length d_model"]
    ) -> Float[Array, "batch source_length d_model"]:
        return states

    def scores(
        self,
        query: Float[Array, "batch queries d_model"],
        keys: Float[Array, "batch source_length d_model"],
    ) -> Float[Array, "batch queries source_length"]:
        return jnp.einsum("bqd,bsd->bqs", query, keys, preferred_element_type=jnp.float32)


def attention_of(
    config: RecurrentConfig, *, rngs: nnx.Rngs
) -> AdditiveAttention | DotAttention | None:
    """The attention that the config names; None for "none"."""
    if config.attention == "additive":
        return AdditiveAttention(config.d_model, dtype=config.dtype, rngs=rngs)
    return DotAttention() if config.attention == "dot" else None


@pytree_dataclass
class Memory:
    """What the decoder reads of the source at every position, computed once."""

    keys: Float[Array, "batch source_length d_model"]
    states: Float[Array, "batch source_length d_model"]
    lengths: Int[Array, "batch"]


@pytree_dataclass
class DecoderState:
    """What a hypothesis carries from position to position."""

    layers: list[LstmState]
    readout: Float[Array, "batch beam d_model"] | None = None
    """of the previous position, if it is fed to the next one (attention "dot")"""


class RecurrentDecoder(nnx.Module):
    """Decoder inputs and encoder states to readouts, which the model projects to the vocabulary.

    additive: the query is the previous state of the top layer; the context enters the first layer beside the
              input embedding (Bahdanau et al. 2015, section 3.1)
    dot:      the query is the new state of the top layer; the readout of this state and its context is fed to
              the next position (input feeding: Luong et al. 2015, section 3.3)
    none:     only the initial states depend on the source

    The initial states of all layers are a learned map of the encoder's final states."""

    def __init__(self, config: RecurrentConfig, *, rngs: nnx.Rngs) -> None:
        d_model, dtype, depth = config.d_model, config.dtype, config.num_decoder_layers
        self.attention = attention_of(config, rngs=rngs)
        is_fed = self.attention is not None
        self.start = layers.Linear(2 * d_model, d_model, parts=2 * depth, dtype=dtype, rngs=rngs)
        self.layers = nnx.List(
            [
                Lstm(
                    d_model,
                    d_model,
                    d_fed=d_model if is_fed and index == 0 else 0,
                    dtype=dtype,
                    rngs=rngs,
                )
                for index in range(depth)
            ]
        )
        d_read = 2 * d_model if is_fed else d_model
        self.readout = layers.Linear(d_read, d_model, dtype=dtype, rngs=rngs)
        self.config = config

    @jax.named_scope("decoder")
    def memory(self, encoded: RecurrentEncoded) -> Memory:
        states = encoded.states
        keys = states if self.attention is None else self.attention.keys(states)
        return Memory(keys, states, encoded.lengths)

    def start_state(self, encoded: RecurrentEncoded, beam: int) -> DecoderState:
        """The state before BOS, the same for every hypothesis of a source."""
        depth = self.config.num_decoder_layers
        parts = jnp.split(self.start(encoded.last), 2 * depth, axis=-1)
        shape = (encoded.lengths.shape[0], beam, self.config.d_model)
        wide = [jnp.broadcast_to(part[:, None], shape) for part in parts]
        states = [
            LstmState(jnp.tanh(hidden), cell.astype(jnp.float32))
            for hidden, cell in zip(wide[:depth], wide[depth:], strict=True)
        ]
        is_fed_back = self.config.attention == "dot"
        return DecoderState(states, jnp.zeros(shape, wide[0].dtype) if is_fed_back else None)

    def context(
        self, query: Float[Array, "batch queries d_model"], memory: Memory
    ) -> Float[Array, "batch queries d_model"]:
        """The mean of the source states, weighted by the attention."""
        assert self.attention is not None
        weights = attention_weights(self.attention.scores(query, memory.keys), memory.lengths)
        return jnp.einsum("bqs,bsd->bqd", weights.astype(memory.states.dtype), memory.states)

    @jax.named_scope("decoder")
    def __call__(
        self,
        inputs: Float[Array, "rows length d_model"],
        encoded: RecurrentEncoded,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "rows length d_model"]:
        """The readouts of given inputs. rows = batch * hypotheses; the rows of one source are
        adjacent. Every position sees the inputs up to and including its own."""
        rows, length, d_model = inputs.shape
        batch, rate = encoded.lengths.shape[0], self.config.dropout_rate
        gates = self.layers[0].input(layers.dropout(inputs, rate, rngs=rngs))
        gates = jnp.moveaxis(gates.reshape(batch, -1, length, 4 * d_model), 2, 0)
        # Dropout masks between layers are drawn before the scan: inside, rngs cannot advance its counter.
        kept = None
        if rngs is not None and len(self.layers) > 1:
            ones = jnp.ones((length, len(self.layers) - 1, *gates.shape[1:3], d_model), gates.dtype)
            kept = layers.dropout(ones, rate, rngs=rngs)
        memory = self.memory(encoded)

        def advance(
            state: DecoderState, item: tuple[Array, Array | None]
        ) -> tuple[DecoderState, Float[Array, "batch beam d_read"]]:
            read, state = self._advance(item[0], state, memory, item[1])
            return state, read if state.readout is None else state.readout

        start = self.start_state(encoded, rows // batch)
        _, read = jax.lax.scan(advance, start, (gates, kept))
        readouts = read if start.readout is not None else self._read_out(read)
        readouts = jnp.moveaxis(readouts, 0, 2).reshape(rows, length, d_model)
        return layers.dropout(readouts, rate, rngs=rngs)

    @jax.named_scope("decoder")
    def step(
        self, inputs: Float[Array, "batch beam d_model"], state: DecoderState, memory: Memory
    ) -> tuple[Float[Array, "batch beam d_model"], DecoderState]:
        """The readout of one position and the state after it."""
        read, state = self._advance(self.layers[0].input(inputs), state, memory, None)
        return self._read_out(read) if state.readout is None else state.readout, state

    def _read_out(self, read: Float[Array, "*axes d_read"]) -> Float[Array, "*axes d_model"]:
        return jnp.tanh(self.readout(read))

    def _advance(
        self,
        gates: Float[Array, "batch beam gates"],
        state: DecoderState,
        memory: Memory,
        kept: Float[Array, "layers_above batch beam d_model"] | None,
    ) -> tuple[Float[Array, "batch beam d_read"], DecoderState]:
        """One position: what is to be read out (the top layer's hidden state, with its context if there is attention),
        and the next state. The readout itself is computed here only if it is fed to the next position."""
        fed = state.readout
        if self.config.attention == "additive":
            fed = self.context(state.layers[-1].hidden, memory)
        new = [self.layers[0].advance(gates, state.layers[0], fed)]
        for index, layer in enumerate(self.layers[1:]):
            below = new[-1].hidden if kept is None else new[-1].hidden * kept[index]
            new.append(layer.advance(layer.input(below), state.layers[index + 1]))
        top = new[-1].hidden
        if self.config.attention == "dot":
            fed = self.context(top, memory)
        read = top if fed is None else jnp.concatenate([top, fed], axis=-1)
        readout = self._read_out(read) if self.config.attention == "dot" else None
        return read, DecoderState(new, readout)

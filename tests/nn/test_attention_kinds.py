"""An attention from a file outside the package: trained and decoded without a change in the package."""

import dataclasses
import functools
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.export import ctranslate2
from nat_ar.methods import base
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.decoder_only import DecoderOnly
from nat_ar.methods.length_nat import LengthNat
from nat_ar.nn import packed
from nat_ar.nn.decoder import Decoder
from nat_ar.nn.positions import Alibi
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.runtime import cpu_kernels
from nat_ar.search.greedy import Greedy
from nat_ar.special_tokens import EOS
from nat_ar.training import step
from nat_ar.types import Batch, Encoded

FILE = '''
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from nat_ar.nn import attention, dot_product


@dataclasses.dataclass(frozen=True)
class Window(attention.Attention):
    """A query sees keys at a distance of at most `width`."""

    width: int = 1

    def self_attention(self, d_model, num_heads, **settings):
        return WindowAttention(self.width, d_model, num_heads, **settings)


class WindowAttention(attention.SelfAttention):
    def __init__(self, width, d_model, num_heads, **settings):
        super().__init__(d_model, num_heads, **settings)
        self.width = width

    def bias(self, distance):
        near = jnp.abs(distance) <= self.width
        return jnp.where(near, 0.0, dot_product.NEGATIVE)[..., None, :, :]


@dataclasses.dataclass(frozen=True)
class TalkingHeads(attention.Attention):
    """Scores are mixed over heads before the softmax (Shazeer et al. 2020)."""

    has_steps: ClassVar[bool] = False

    def self_attention(self, d_model, num_heads, **settings):
        return TalkingAttention(d_model, num_heads, **settings)


class TalkingAttention(attention.SelfAttention):
    def __init__(self, d_model, num_heads, *, rngs, **settings):
        super().__init__(d_model, num_heads, rngs=rngs, **settings)
        self.talk = nnx.Param(jnp.eye(num_heads))

    def __call__(self, x, lengths, *, is_causal=False, sees_itself=True):
        query, key, value = self.heads(x)
        memory = dot_product.key_value(key, value)
        scores = dot_product.products(jnp.swapaxes(query, 1, 2), memory.key)
        scores = jnp.einsum("rhqk,hg->rgqk", scores, self.talk[...])
        is_key = (jnp.arange(x.shape[1]) < lengths[:, None])[:, None, None]
        weights = jax.nn.softmax(jnp.where(is_key, scores, dot_product.NEGATIVE), axis=-1)
        states = jnp.swapaxes(weights @ memory.value, 1, 2)
        return self.output(states.reshape(x.shape))
'''
SIZES = base.VocabularySizes(12, 12, is_joint=True)
SMALL = TransformerConfig(16, 32, 2, 1, 1, dropout_rate=0.0, max_length=32)


@pytest.fixture
def kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    monkeypatch.chdir(tmp_path)
    Path("kinds.py").write_text(FILE, "utf-8")
    return config_json.run_file("kinds.py")


def batch() -> Batch:
    """Sentences of one to five words; the translation is the sentence."""
    generator = np.random.default_rng(0)
    source = np.zeros((16, 6), np.int32)
    for row in source:
        length = generator.integers(1, 6)
        row[: length + 1] = [*generator.integers(6, 12, length), EOS]
    return Batch(jnp.asarray(source), jnp.asarray(source))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Window", "TalkingHeads"])
def test_a_new_attention_is_written_read_trained_and_decoded(
    kinds: types.ModuleType, name: str
) -> None:
    transformer = dataclasses.replace(SMALL, attention=getattr(kinds, name)())
    method = Autoregressive(transformer) if name == "Window" else LengthNat(transformer)
    data = config_json.to_json(method)
    assert data["transformer"]["attention"]["from"] == "kinds.py"
    method = config_json.from_json(type(method), data)
    graphdef, params = nnx.split(method.build(SIZES, rngs=nnx.Rngs(0)), nnx.Param)
    optimizer, mesh = optax.adam(1e-2), step.data_mesh(1)
    train_step = step.build_train_step(graphdef, optimizer, mesh)
    state = step.initial_state(params, optimizer, seed=0, has_average=False)
    objectives = []
    for _ in range(20):
        state, terms = train_step(state, batch(), None)
        objectives.append(float(terms["objective"].value))
    assert objectives[-1] < 0.8 * objectives[0]
    model = nnx.merge(graphdef, state.params)
    decoding = Greedy() if name == "Window" else method.decoding
    decode = functools.partial(model.decode, decoding=decoding, max_length=8)
    tokens = np.asarray(jax.jit(decode)(batch().source).tokens)
    assert tokens.any()


@pytest.mark.parametrize("is_packed", [False, True])
def test_a_window_hides_what_is_far_in_parallel_and_step_by_step(
    kinds: types.ModuleType, is_packed: bool
) -> None:
    """One block, width 1: a change at position 0 is seen at position 1, and no longer at position 2."""
    if is_packed and not cpu_kernels.are_available():
        pytest.skip("no CPU, or no C++ compiler, or NAT_AR_NATIVE=0")
    config = dataclasses.replace(SMALL, attention=kinds.Window(width=1))
    decoder = Decoder(config, rngs=nnx.Rngs(0))
    if is_packed:
        packed.pack(decoder)
    generator = np.random.default_rng(0)
    x, source = (jnp.asarray(generator.normal(size=(1, 4, 16)), jnp.float32) for _ in range(2))
    encoded = Encoded(source, jnp.array([4]))
    run, advance = jax.jit(functools.partial(decoder, is_causal=True)), jax.jit(decoder.step)
    states, changed = run(x, None, encoded), run(x.at[0, 0, 0].add(1.0), None, encoded)
    moved = np.abs(np.asarray(states - changed)).max(axis=(0, 2)) > 1e-6
    np.testing.assert_array_equal(moved, [True, True, False, False])
    memory, cache = decoder.memory(encoded), decoder.empty_cache(1, 1, 4)
    for position in range(4):
        inputs = x[:, position, None]
        state, cache = advance(inputs, cache, jnp.int32(position), memory, encoded.lengths)
        np.testing.assert_allclose(state[0, 0], states[0, position], rtol=1e-4, atol=1e-5)


def test_what_cannot_have_a_new_attention_says_so_in_one_line(kinds: types.ModuleType) -> None:
    talking = dataclasses.replace(SMALL, attention=kinds.TalkingHeads())
    window = dataclasses.replace(SMALL, attention=kinds.Window())
    with pytest.raises(ConfigError, match="attention TalkingHeads cannot go step by step"):
        Autoregressive(talking)
    with pytest.raises(ConfigError, match="attention TalkingHeads cannot go step by step"):
        Decoder(talking, rngs=nnx.Rngs(0)).empty_cache(1, 1, 4)
    with pytest.raises(ConfigError, match=r"takes attention Full and .*, got Window\(width=1\)"):
        DecoderOnly(window)
    for transformer in (window, dataclasses.replace(SMALL, positions=Alibi())):
        with pytest.raises(ConfigError, match="--format ctranslate2 has attention Full"):
            ctranslate2.check(Autoregressive(transformer), Greedy())
    causal = dataclasses.replace(SMALL, encoder_attention="causal")
    with pytest.raises(ConfigError, match="set source_attention of DecoderOnly"):
        DecoderOnly(causal)
    with pytest.raises(ConfigError, match="--format ctranslate2 has bidirectional encoders"):
        ctranslate2.check(Autoregressive(causal), Greedy())
    with pytest.raises(ConfigError, match="knows attention Full"):
        dataclasses.replace(window, implementation="cudnn", dtype="bfloat16")

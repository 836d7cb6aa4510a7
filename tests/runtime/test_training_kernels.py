"""Products of bfloat16 numbers against NumPy in float64, attention against JAX, and the steps that are made of them."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from flax import nnx

from nat_ar.config_json import ConfigError
from nat_ar.evaluation.speed import training_cost
from nat_ar.evaluation.speed.machine import Peaks
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.base import VocabularySizes
from nat_ar.nn import layers
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.runtime import devices, processor, training_kernels
from nat_ar.runtime.training_kernels import product
from nat_ar.special_tokens import EOS, PAD
from nat_ar.training import optimizer, step
from nat_ar.training.optimizer import OptimizerConfig

needs_kernels = pytest.mark.skipif(
    not training_kernels.levels(), reason="no CPU, or no C++ compiler, or NAT_AR_NATIVE=0"
)
each_level = pytest.mark.parametrize("level", training_kernels.levels())
NUMBERS = np.random.default_rng(0)


@pytest.fixture
def multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this processor had the instructions: products of its best level take the place of XLA's."""
    monkeypatch.setattr(training_kernels, "multiply_bfloat16", lambda: True)


def rounded(x: np.ndarray) -> np.ndarray:
    return x.astype(ml_dtypes.bfloat16).astype(np.float32)


def multiply(left: np.ndarray, right: np.ndarray, **options: object) -> np.ndarray:
    found = jax.jit(functools.partial(product, **options))(left, right)
    return np.asarray(found).astype(np.float32)


@needs_kernels
@each_level
@pytest.mark.parametrize(
    ("rows", "depth", "width"), [(1, 1, 1), (17, 33, 40), (70, 64, 31), (32, 100, 32)]
)
def test_a_product_is_that_of_the_rounded_factors(
    level: str, rows: int, depth: int, width: int
) -> None:
    """Either factor as it is or transposed, float32 or bfloat16; of both kinds of result."""
    left = NUMBERS.standard_normal((rows, depth), np.float32)
    right = NUMBERS.standard_normal((depth, width), np.float32)
    expected = rounded(left).astype(np.float64) @ rounded(right)
    for types in itertools.product((np.float32, ml_dtypes.bfloat16), repeat=2):
        for ways in itertools.product((False, True), repeat=2):
            a, b = (
                np.ascontiguousarray(x.astype(kind).T if is_transposed else x.astype(kind))
                for x, kind, is_transposed in zip((left, right), types, ways, strict=True)
            )
            options = {"is_left_transposed": ways[0], "is_right_transposed": ways[1]}
            found = multiply(a, b, level=level, **options)
            np.testing.assert_allclose(found, expected, atol=2e-5 * depth)
            short = multiply(a, b, level=level, dtype="bfloat16", **options)
            np.testing.assert_array_equal(short, rounded(found))


@needs_kernels
@each_level
def test_integers_are_exact_and_a_half_is_rounded_to_even(level: str) -> None:
    """bfloat16 has 8 bits: 257 lies between 256 and 258, and 259 between 258 and 260."""
    left = np.array([[1.0, 2.0, -3.0], [257.0, 0.0, 0.0], [259.0, 0.0, 0.0]], np.float32)
    right = np.array([[1.0, 0.0], [10.0, 0.0], [100.0, 1.0]], np.float32)
    found = multiply(left, right, level=level)
    np.testing.assert_array_equal(found, [[1 + 20 - 300, -3], [256, 0], [260, 0]])


@needs_kernels
@each_level
def test_what_is_not_finite_stays_in_its_row(level: str) -> None:
    left = np.ones((40, 5), np.float32)
    left[3, 1], left[4, 1] = np.nan, np.inf
    found = multiply(left, np.ones((5, 33), np.float32), level=level, is_rectified=True)
    assert np.isnan(found[3]).all()
    assert np.isinf(found[4]).all()
    np.testing.assert_array_equal(np.delete(found, [3, 4], axis=0), 5.0)


@needs_kernels
@each_level
def test_a_row_does_not_depend_on_the_others(level: str) -> None:
    left = NUMBERS.standard_normal((700, 130), np.float32)
    right = NUMBERS.standard_normal((130, 50), np.float32)
    whole = multiply(left, right, level=level)
    for first, last in ((0, 1), (5, 40), (333, 700)):
        np.testing.assert_array_equal(
            multiply(left[first:last], right, level=level), whole[first:last]
        )


@needs_kernels
@each_level
def test_a_product_has_the_same_bits_however_its_factors_lie(level: str) -> None:
    """Also that of a depth of many tiles, into more rows and columns than a block has."""
    left = NUMBERS.standard_normal((290, 600), np.float32)
    right = NUMBERS.standard_normal((600, 530), np.float32)
    options = {"level": level, "is_rectified": True}
    expected = multiply(left, right, **options)
    for ways in itertools.product((False, True), repeat=2):
        factors = (
            np.ascontiguousarray(x.T) if is_transposed else x
            for x, is_transposed in zip((left, right), ways, strict=True)
        )
        found = multiply(
            *factors, is_left_transposed=ways[0], is_right_transposed=ways[1], **options
        )
        np.testing.assert_array_equal(found, expected)


@needs_kernels
def test_the_bias_is_added_and_a_rectified_result_is_at_least_0() -> None:
    left, right = np.array([[1.0], [-1.0]], np.float32), np.array([[2.0, -2.0, 0.0]], np.float32)
    bias = np.array([0.5, 0.5, -0.5], np.float32)
    call = functools.partial(product, is_rectified=True)
    np.testing.assert_array_equal(jax.jit(call)(left, right, bias), [[2.5, 0, 0], [0, 2.5, 0]])


@needs_kernels
@pytest.mark.usefixtures("multiplies")
@pytest.mark.parametrize("is_rectified", [False, True])
def test_gradients_are_those_of_jax(is_rectified: bool) -> None:
    """Of a map with bias, and of inner products with a table, where JAX multiplies numbers rounded alike."""
    module = layers.Linear(24, 40, is_rectified=is_rectified, dtype="bfloat16", rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(module)
    x = jnp.asarray(NUMBERS.standard_normal((300, 24), np.float32), jnp.bfloat16)
    table = jnp.asarray(NUMBERS.standard_normal((50, 40), np.float32))
    weights = jnp.asarray(NUMBERS.standard_normal((300, 50), np.float32))

    def objective(params: nnx.State, x: jax.Array, table: jax.Array, are: bool) -> jax.Array:
        with training_kernels.in_use(are):
            states = nnx.merge(graphdef, params)(x)
            if are:
                logits = training_kernels.inner(states, table)
            else:
                logits = jnp.matmul(
                    states, table.astype("bfloat16").T, preferred_element_type=jnp.float32
                )
        return (logits * weights).sum()

    gradient = jax.jit(jax.grad(objective, argnums=(0, 1, 2)), static_argnums=3)
    for found, expected in zip(
        jax.tree.leaves(gradient(params, x, table, True)),
        jax.tree.leaves(gradient(params, x, table, False)),
        strict=True,
    ):
        assert found.dtype == expected.dtype
        expected = np.asarray(expected, np.float32)
        np.testing.assert_allclose(
            np.asarray(found, np.float32), expected, atol=0.02 * np.abs(expected).max()
        )


PEAKS = Peaks({"float32": 1e9, "bfloat16": 1e9}, {8: 1e9})
SIZES = VocabularySizes(50, 50, is_joint=True)


def method(dtype: str) -> Autoregressive:
    return Autoregressive(
        TransformerConfig(
            d_model=32,
            d_hidden=64,
            num_encoder_layers=1,
            num_decoder_layers=1,
            dropout_rate=0.0,
            dtype=dtype,  # type: ignore[arg-type]
        )
    )


@needs_kernels
@pytest.mark.usefixtures("multiplies")
def test_a_step_multiplies_by_kernels_only_and_learns_what_float32_learns() -> None:
    batch = training_cost.random_batch(4, 6, SIZES)
    parameters, terms = {}, {}
    for dtype, has_kernels in (("float32", False), ("bfloat16", True)):
        graphdef, params, carried = step.split(method(dtype).build(SIZES, rngs=nnx.Rngs(0)))
        adam = optimizer.build(OptimizerConfig(warmup_steps=1), max_steps=10)
        train_step = step.build_train_step(
            graphdef, adam, step.data_mesh(1), has_kernels=has_kernels
        )
        state = step.initial_state(params, adam, seed=1, has_average=False, carried=carried)
        if has_kernels:
            program = train_step.trace(state, batch, None).lower().as_text()
            assert program.count(training_kernels.PRODUCT) > 20
            assert "dot_general" not in program
        losses = []
        for _ in range(8):
            state, found = train_step(state, batch, None)
            losses.append(float(found["objective"].value))
        terms[dtype], parameters[dtype] = losses, state.params
    np.testing.assert_allclose(terms["bfloat16"], terms["float32"], rtol=0.02)
    assert terms["bfloat16"][-1] < 0.9 * terms["bfloat16"][0]
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(parameters["bfloat16"])} == {"float32"}


@needs_kernels
@pytest.mark.usefixtures("multiplies")
def test_the_products_of_a_step_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many FLOPs by kernels, in either type, as by XLA's operations, attention included."""
    batch = training_cost.random_batch(4, 6, SIZES)
    flops = []
    for dtype, has_kernels in (("float32", False), ("float32", True), ("bfloat16", True)):
        monkeypatch.setattr(step, "may_have_kernels", lambda _, are=has_kernels: are)
        train = training_cost.TrainStep(method(dtype), SIZES, batch)
        flops.append(train.product_cost(batch, PEAKS).flops)
    assert flops[0] == flops[1] == flops[2] > 0


@pytest.mark.parametrize("levels", [(), ("plain",)])
def test_bfloat16_does_not_train_where_it_is_no_faster(
    levels: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_kernels, "levels", lambda: levels)
    devices.require_fast_training("float32", 1)
    with pytest.raises(ConfigError, match=r"this CPU.* set .*transformer\.dtype\) to 'float32'"):
        devices.require_fast_training("bfloat16", 1)


@pytest.mark.parametrize(
    ("vendor", "levels", "is_faster"),
    [
        ("AuthenticAMD", ("plain", "dots"), True),
        ("GenuineIntel", ("plain", "dots"), False),
        ("GenuineIntel", ("plain", "dots", "amx"), True),
        ("AuthenticAMD", ("plain",), False),
        ("", ("plain", "dots"), False),
    ],
)
def test_dot_products_are_faster_than_float32_on_amds_processors_only(
    vendor: str, levels: tuple[str, ...], is_faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_kernels, "levels", lambda: levels)
    monkeypatch.setattr(processor, "_first", lambda: {"vendor_id": vendor} if vendor else {})
    assert training_kernels.multiply_bfloat16() is is_faster


def test_bfloat16_trains_on_one_cpu_device_that_multiplies_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training_kernels, "levels", lambda: ("plain", "amx"))
    devices.require_fast_training("bfloat16", 1)
    with pytest.raises(ConfigError, match=r"on one device only.*got 2"):
        devices.require_fast_training("bfloat16", 2)


# Attention


def plain_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, counts: jax.Array, is_causal: bool
) -> jax.Array:
    """As training_kernels.attend says, by operations that JAX differentiates."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5
    places = jnp.arange(key.shape[1])
    is_seen = (places < counts[:, None])[:, None, None]
    if is_causal:
        is_seen = is_seen & (places <= jnp.arange(query.shape[1])[:, None])
    is_seen = is_seen & (counts > 0)[:, None, None, None]
    shares = jax.nn.softmax(jnp.where(is_seen, scores, -1e9), axis=-1)
    return jnp.einsum("bhqk,bkhd->bqhd", shares, value)


def gradients_of(attend: Callable[..., jax.Array], *arguments: Any) -> list[np.ndarray]:
    """Of a weighted sum of the result, for query, key and value, after the result itself."""
    *arrays, counts, is_causal = arguments
    weights = jnp.cos(jnp.arange(arrays[0].size)).reshape(arrays[0].shape)

    def objective(*arrays: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = attend(*arrays, counts, is_causal)
        return (found.astype(jnp.float32) * weights).sum(), found

    gradient = jax.jit(jax.value_and_grad(objective, argnums=(0, 1, 2), has_aux=True))
    (_, found), gradients = gradient(*arrays)
    return [np.asarray(x, np.float32) for x in (found, *gradients)]


@needs_kernels
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize(
    ("queries", "keys", "heads", "head_dim"),
    [(1, 1, 1, 1), (5, 7, 2, 8), (20, 20, 4, 32), (33, 18, 3, 20), (40, 70, 1, 64)],
)
def test_attention_and_its_gradients(
    queries: int, keys: int, heads: int, head_dim: int, is_causal: bool
) -> None:
    """Of four sentences: all keys count, one, some, none (then all count evenly)."""
    shapes = (4, queries, heads, head_dim), *[(4, keys, heads, head_dim)] * 2
    arrays = [jnp.asarray(NUMBERS.standard_normal(shape, np.float32)) for shape in shapes]
    counts = jnp.array([keys, 1, (keys + 1) // 2, 0], jnp.int32)
    expected = gradients_of(plain_attention, *arrays, counts, is_causal)
    found = gradients_of(training_kernels.attend, *arrays, counts, is_causal)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=3e-5 * max(1, np.abs(other).max()))
    short = [x.astype(jnp.bfloat16) for x in arrays]
    wide = [x.astype(jnp.float32) for x in short]
    expected = gradients_of(training_kernels.attend, *wide, counts, is_causal)
    for one, other in zip(
        gradients_of(training_kernels.attend, *short, counts, is_causal), expected, strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=0.01, atol=0.01 * np.abs(other).max())


@needs_kernels
def test_attention_of_a_sentence_does_not_depend_on_the_others_or_on_padding() -> None:
    """Bit for bit; keys behind the last that counts may be anything."""
    arrays = [jnp.asarray(NUMBERS.standard_normal((3, 12, 2, 16), np.float32)) for _ in range(3)]
    counts = jnp.array([5, 12, 9], jnp.int32)
    whole = gradients_of(training_kernels.attend, *arrays, counts, True)
    query, key, value = (x[:1] for x in arrays)
    key, value = (x.at[:, 5:].set(1e6) for x in (key, value))
    attend = jax.jit(training_kernels.attend, static_argnums=4)
    np.testing.assert_array_equal(attend(query, key, value, counts[:1], True)[0], whole[0][0])


@needs_kernels
def test_a_step_by_kernels_is_that_of_xla() -> None:
    """In float32 a step's gradients differ by rounding only; padded sentences, and a padded row."""
    batch = training_cost.random_batch(4, 6, SIZES)
    source = batch.source.at[1, 3:].set(PAD).at[1, 2].set(EOS).at[3].set(PAD)
    target = batch.target.at[2, 4:].set(PAD).at[2, 3].set(EOS).at[3].set(PAD)
    batch = dataclasses.replace(batch, source=source, target=target)
    norms, states = [], []
    for has_kernels in (False, True):
        graphdef, params, carried = step.split(method("float32").build(SIZES, rngs=nnx.Rngs(0)))
        descent = optax.sgd(1.0)
        train_step = step.build_train_step(
            graphdef, descent, step.data_mesh(1), has_kernels=has_kernels
        )
        state = step.initial_state(params, descent, seed=1, has_average=False, carried=carried)
        calls = (
            train_step.trace(state, batch, None).lower().as_text().count(training_kernels.ATTEND)
        )
        assert calls == (6 if has_kernels else 0)  # three attentions, forward and backward
        state, terms = train_step(state, batch, None)
        norms.append(float(terms["gradient_norm"].value))
        states.append(state.params)
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
    for one, other in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)

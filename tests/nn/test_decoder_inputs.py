"""Copies of the source, and what tells them apart."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nat_ar.config_json import ConfigError
from nat_ar.nn import decoder_inputs, layers
from nat_ar.nn.decoder_inputs import Copier, Copies, Inputs
from nat_ar.nn.positions import sinusoids
from nat_ar.special_tokens import PAD
from nat_ar.types import Encoded
from toys import TINY

D_MODEL = TINY.d_model
GENERATOR = np.random.default_rng(0)
EMBEDDINGS, STATES = jnp.asarray(GENERATOR.normal(size=(2, 2, 4, D_MODEL)), jnp.float32)
ENCODED = Encoded(STATES, jnp.array([4, 3]))
FERTILITIES = jnp.array([[2, 0, 3, 0], [1, 1, 0, 0]])
SOURCES = [0, 0, 2, 2, 2]  # of the first row
TABLE = sinusoids(4, D_MODEL)


def copier(kind: Any = "uniform", **settings: Any) -> Copier:
    return Copier(Copies(**settings), TINY, kind=kind, temperature=0.3, rngs=nnx.Rngs(0))


def by_fertility(**settings: Any) -> tuple[Copier, np.ndarray]:
    """What the first row reads."""
    made = copier(**settings)
    return made, np.asarray(made.by_fertility(EMBEDDINGS, ENCODED, FERTILITIES, 5).read()[0])


@pytest.mark.parametrize(("of", "copied"), [("embeddings", EMBEDDINGS), ("states", STATES)])
def test_embeddings_or_states_are_copied(of: str, copied: jax.Array) -> None:
    _, read = by_fertility(of=of)
    np.testing.assert_array_equal(read, copied[0, jnp.array(SOURCES)])


def test_each_copy_knows_its_source_position() -> None:
    _, read = by_fertility(source_positions=True)
    np.testing.assert_allclose(read, EMBEDDINGS[0, jnp.array(SOURCES)] + TABLE[SOURCES], atol=1e-6)


def test_copies_of_a_token_differ_by_a_vector() -> None:
    """The third copy is as the second, of two places."""
    made, read = by_fertility(told_apart_by="vector", places=2)
    vectors = made.vectors(jnp.array([0, 1, 0, 1, 1]))
    np.testing.assert_allclose(read, EMBEDDINGS[0, jnp.array(SOURCES)] + vectors, atol=1e-6)


def test_copies_of_a_token_differ_by_a_map() -> None:
    """Positions are added behind it."""
    made, read = by_fertility(of="states", told_apart_by="map", places=2, source_positions=True)
    kernel = made.map.kernel[...].reshape(D_MODEL, 2, D_MODEL)
    for target, (source, place) in enumerate(zip(SOURCES, [0, 1, 0, 1, 1], strict=True)):
        expected = STATES[0, source] @ kernel[:, place] + TABLE[source]
        np.testing.assert_allclose(read[target], expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["uniform", "soft", "squared"])
def test_the_place_of_a_mean_is_that_of_the_nearest_token(kind: Any) -> None:
    """Three tokens before EOS on six positions: t * 2 / 5, of which 0 to 1 are nearest to the first, and so on."""
    settings = {"told_apart_by": "vector", "copies_eos": False}
    made, plain = copier(kind, **settings), copier(kind, copies_eos=False)
    lengths = jnp.array([6, 1])
    marked, copied = (
        made.evenly(EMBEDDINGS, ENCODED, lengths, 6).read()[0],
        plain.evenly(EMBEDDINGS, ENCODED, lengths, 6).read()[0],
    )
    vectors = made.vectors(jnp.array([0, 1, 0, 1, 0, 1]))
    np.testing.assert_allclose(marked - copied, vectors, atol=1e-5)
    if kind == "uniform":
        np.testing.assert_array_equal(copied, EMBEDDINGS[0, jnp.array([0, 0, 1, 1, 2, 2])])


def test_a_shown_word_takes_the_place_of_the_copy_and_keeps_the_marks() -> None:
    embedding = layers.Embedding(9, 2, rngs=nnx.Rngs(0))
    inputs = Inputs(jnp.ones((1, 2, 2)), jnp.full((1, 2, 2), 10.0))
    read = inputs.read(jnp.array([[PAD, 7]]), embedding)
    np.testing.assert_allclose(read[0], [[11, 11], embedding(jnp.array(7)) + 10], rtol=1e-6)


EVERYTHING = Copies(
    of="states",
    source_positions=True,
    told_apart_by="map",
    copies_eos=False,
    learned_temperature=True,
)


@pytest.mark.parametrize("told_apart_by", ["vector", "map"])
def test_padding_and_other_rows_change_nothing(told_apart_by: Any) -> None:
    """The second row alone, its source padded by other vectors, in a wider target."""
    config = dataclasses.replace(EVERYTHING, told_apart_by=told_apart_by)
    made = Copier(config, TINY, kind="squared", temperature=0.3, rngs=nnx.Rngs(0))
    together = made.evenly(EMBEDDINGS, ENCODED, jnp.array([5, 4]), 5).read()[1, :4]
    states = jnp.pad(STATES[1:], ((0, 0), (0, 3), (0, 0)), constant_values=9.0).at[:, 3].set(7.0)
    wider = Encoded(states, jnp.array([3]))
    alone = made.evenly(jnp.zeros((1, 7, D_MODEL)), wider, jnp.array([4]), 9).read()[0, :4]
    np.testing.assert_allclose(alone, together, atol=1e-5)


def test_all_that_is_new_learns() -> None:
    """Vectors or maps of all places that occur, states, and the temperature."""

    def gradient(told_apart_by: Any) -> Any:
        config = dataclasses.replace(EVERYTHING, told_apart_by=told_apart_by, places=2)
        made = Copier(config, TINY, kind="soft", temperature=0.3, rngs=nnx.Rngs(0))
        graph, params = nnx.split(made, nnx.Param)

        def total(params: nnx.State, states: jax.Array) -> jax.Array:
            encoded = dataclasses.replace(ENCODED, states=states)
            copies = nnx.merge(graph, params)
            read = copies.evenly(EMBEDDINGS, encoded, jnp.array([5, 3]), 5).read()
            return (read**2).sum()

        return jax.grad(total, (0, 1))(params, STATES)

    params, states = gradient("vector")
    assert (jnp.abs(params["vectors"]["table"][...]).max(axis=1) > 0).all()
    assert abs(float(params["log_temperature"][...])) > 1e-3
    assert (jnp.abs(states[0, :3]).max(axis=1) > 0).all()
    params, _ = gradient("map")
    assert (jnp.abs(params["map"]["bias"][...]).reshape(2, -1).max(axis=1) > 0).all()


@pytest.mark.parametrize(
    ("settings", "kind", "temperature", "message"),
    [
        ({"learned_temperature": True}, "uniform", 1.0, "needs copy 'soft' or 'squared', got 'u"),
        ({"copies_eos": False}, "fertility", 1.0, "a choice of even copies"),
        ({"of": "states"}, "none", 1.0, "but copy is 'none'"),
        ({}, "soft", 0.0, r"above 0, got 0\.0"),
    ],
)
def test_settings_that_do_nothing_are_refused(
    settings: dict[str, Any], kind: str, temperature: float, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        decoder_inputs.require_fit(Copies(**settings), kind, temperature)


def test_at_least_one_place() -> None:
    with pytest.raises(ConfigError, match=r"inputs\.places must be at least 1, got 0"):
        Copies(places=0)

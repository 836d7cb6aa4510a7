"""Decoder inputs from source embeddings, on ragged batches small enough to check by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nat_ar.nn import upsampling

# Two sources of 3 and 2 tokens in a batch 4 wide: token j of row r is the vector [10 r + j].
EMBEDDINGS = jnp.array([[0.0, 1, 2, 3], [10, 11, 12, 13]])[..., None]
LENGTHS = jnp.array([3, 2])


def test_fertility_sources_repeat_every_token_as_often_as_its_fertility() -> None:
    fertilities = jnp.array([[2, 0, 1, 0], [0, 3, 0, 0], [1, 1, 1, 1]])
    places = upsampling.fertility_sources(fertilities, 4)
    assert places[0, :3].tolist() == [0, 0, 2]
    assert places[1, :3].tolist() == [1, 1, 1]
    assert places[2].tolist() == [0, 1, 2, 3]
    assert int(places.max()) == 3  # what lies past the sum is still a place of the source


def test_padding_the_source_moves_no_place() -> None:
    fertilities = jnp.array([[0, 2, 1], [3, 0, 0]])
    padded = jnp.pad(fertilities, ((0, 0), (0, 4)))
    narrow, wide = (upsampling.fertility_sources(f, 3) for f in (fertilities, padded))
    assert narrow.tolist() == wide.tolist() == [[1, 1, 2], [0, 0, 0]]


def test_uniform_sources_stay_inside_a_ragged_source() -> None:
    # Row 0: 3 tokens on 6 places, t / 2 rounded half to even. Row 1: 2 tokens on 2 places.
    places = upsampling.uniform_sources(LENGTHS, jnp.array([6, 2]), 6)
    assert places[0].tolist() == [0, 0, 1, 2, 2, 2]
    assert places[1].tolist() == [0, 1, 1, 1, 1, 1]


def test_copy_takes_each_row_from_its_own_source() -> None:
    copies = upsampling.copy(EMBEDDINGS, jnp.array([[0, 0, 2], [1, 0, 1]]))
    assert copies[..., 0].tolist() == [[0, 0, 2], [11, 10, 11]]


def soft_copy(
    embeddings: jax.Array, targets: jax.Array, temperature: float, **settings: Any
) -> jax.Array:
    """Of sources of 3 and 2 tokens, on three positions."""
    settings = {"kind": "soft", "temperature": temperature, **settings}
    spread = upsampling.even_spread(LENGTHS, targets, (4, 3), **settings)
    return spread.copy(embeddings)[..., 0]


def test_soft_copy_weighs_by_distance_and_never_sees_padding() -> None:
    targets = jnp.array([3, 2])
    soft = soft_copy(EMBEDDINGS, targets, 1.0)
    near, far = 1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))  # distances 0 and 1
    assert soft[1, 0] == pytest.approx(10 * near + 11 * far, rel=1e-5)
    assert soft[1, 1] == pytest.approx(11 * near + 10 * far, rel=1e-5)
    sharp = soft_copy(EMBEDDINGS, targets, 0.01)
    assert sharp[0] == pytest.approx([0, 1, 2])
    changed = EMBEDDINGS.at[0, 3].set(99.0).at[1, 2:].set(99.0)
    again = soft_copy(changed, targets, 1.0)
    assert again.tolist() == soft.tolist()


def test_squared_distances_make_neighbours_faint() -> None:
    """At 0.3 the middle one of three keeps 1 / (1 + 2 e^(-1 / 0.3)) = 0.93; half-way between two tokens, both count
    the same."""
    weights = upsampling.soft_weights(
        jnp.array([[1.0, 0.5]]), jnp.array([3]), 4, temperature=0.3, is_squared=True
    )[0]
    one_off = np.exp(-1 / 0.3)
    assert 1 / (1 + 2 * one_off) == pytest.approx(0.933, abs=1e-3)
    expected = np.array([one_off, 1, one_off, 0]) / (1 + 2 * one_off)
    np.testing.assert_allclose(weights[0], expected, rtol=1e-5)
    assert float(weights[1, 0]) == float(weights[1, 1]) > 0.49
    squared = soft_copy(EMBEDDINGS, jnp.array([3, 2]), 0.3, kind="squared")
    np.testing.assert_allclose(squared[0, 1], 1.0, rtol=1e-5)
    own = 1 / (1 + one_off)
    np.testing.assert_allclose(squared[1, 0], 10 * own + 11 * (1 - own), rtol=1e-5)


def test_end_aligned_copies_begin_and_end_with_the_source() -> None:
    """Three tokens on five positions and on one; two tokens on three."""
    lengths, targets = jnp.array([3, 3, 2]), jnp.array([5, 1, 3])
    centres = upsampling.even_centres(lengths, targets, 5, is_end_aligned=True)
    assert centres[0].tolist() == [0, 0.5, 1, 1.5, 2]
    assert centres[1, 0] == 0
    assert centres[2, :3].tolist() == [0, 0.5, 1]
    places = upsampling.uniform_sources(lengths, targets, 5, is_end_aligned=True)
    assert places[0].tolist() == [0, 0, 1, 2, 2]


def test_copies_of_one_token_are_numbered() -> None:
    sources = jnp.array([[0, 0, 2, 2, 2], [1, 2, 3, 3, 4]])
    assert upsampling.copy_numbers(sources).tolist() == [[0, 1, 0, 1, 2], [0, 0, 0, 1, 0]]


def test_the_rows_of_one_source_are_neighbours() -> None:
    """Two sources, two hypotheses of each."""
    spread = upsampling.Spread(jnp.array([[0, 1], [2, 2], [1, 0], [0, 0]]))
    assert spread.copy(EMBEDDINGS)[..., 0].tolist() == [[0, 1], [2, 2], [11, 10], [10, 10]]


def test_repeat_gives_every_token_as_many_frames() -> None:
    frames = upsampling.repeat(EMBEDDINGS[:, :3], 2)[..., 0]
    assert frames.tolist() == [[0, 0, 1, 1, 2, 2], [10, 10, 11, 11, 12, 12]]


def test_split_cuts_every_state_into_frames_in_order() -> None:
    states = jnp.arange(12.0).reshape(1, 2, 6)
    assert upsampling.split(states, 3).tolist() == [
        [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]
    ]

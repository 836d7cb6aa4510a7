"""Arrays that are no parameters: the loss carries them on, checkpoints bring them back, translating has them."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from nat_ar.special_tokens import PAD
from nat_ar.training import step
from nat_ar.training.checkpoint import Checkpoints
from nat_ar.training.step import TrainState
from nat_ar.types import Averaged, Batch, Carried, Loss, Mean


class Clusters(nnx.Module):
    """A centroid that goes half of the way to the mean token of each batch, a count of the rows, and a weight that
    learns the centroid through a mask."""

    def __init__(self) -> None:
        self.weight = nnx.Param(jnp.zeros(2))
        self.centroid = Averaged(jnp.float32(0))
        self.rows = Carried(jnp.int32(0))
        self.mask = Carried(jnp.array([True, False]))

    def loss(self, batch: Batch, *, step: jax.Array, rngs: nnx.Rngs, teacher: None) -> Loss:
        error = jnp.where(self.mask[...], self.weight[...], 0.0).sum() - self.centroid[...]
        mean = batch.target.sum() / jnp.maximum((batch.target != PAD).sum(), 1)
        self.centroid[...] = (self.centroid[...] + mean) / 2
        self.rows[...] = self.rows[...] + batch.target.shape[0]
        objective = jnp.square(error)
        terms = {"token": Mean(objective, jnp.float32(1))}
        return Loss(objective, terms, nnx.state(self, Carried))


def batch_of(*tokens: int) -> Batch:
    target = jnp.array(tokens, jnp.int32)[:, None]
    return Batch(target, target)


def trained(
    *batches: Batch, accumulation: int = 1, decay: float | None = None, skips: bool = False
) -> TrainState:
    graphdef, params, carried = step.split(Clusters())
    optimizer = optax.sgd(0.1)
    train_step = step.build_train_step(
        graphdef,
        optimizer,
        step.data_mesh(1),
        accumulation=accumulation,
        average_decay=decay,
        skips_non_finite=skips,
    )
    state = step.initial_state(
        params, optimizer, seed=0, has_average=decay is not None, carried=carried
    )
    for batch in batches:
        state, _ = train_step(state, batch, None)
    return state


def test_the_loss_carries_arrays_on_and_no_gradient_does() -> None:
    """Centroid: 0, then (0 + 8) / 2 = 4, then (4 + 10) / 2 = 7. The weight moves when the centroid has: in the
    second update, by 0.1 * 2 * 4, where the mask lets it."""
    state = trained(batch_of(6, 10), batch_of(10, 10))
    assert float(state.carried["centroid"][...]) == 7.0
    assert int(state.carried["rows"][...]) == 4
    np.testing.assert_array_equal(state.carried["mask"][...], [True, False])
    np.testing.assert_allclose(state.params["weight"][...], [0.8, 0.0], rtol=1e-6)


def test_parts_of_a_batch_go_on_from_each_other() -> None:
    """Rows 0 and 2 are the first part, 1 and 3 the second: (0 + 6) / 2 = 3, (3 + 10) / 2 = 6.5."""
    state = trained(batch_of(6, 10, 6, 10), accumulation=2)
    assert float(state.carried["centroid"][...]) == 6.5
    assert int(state.carried["rows"][...]) == 4


def test_a_batch_that_is_skipped_carries_nothing_on() -> None:
    class Broken(Clusters):
        def loss(self, batch: Batch, **settings: object) -> Loss:
            loss = super().loss(batch, **settings)  # type: ignore[arg-type]
            return Loss(loss.objective * jnp.nan, loss.terms, loss.carried)

    graphdef, params, carried = step.split(Broken())
    optimizer, mesh = optax.sgd(0.1), step.data_mesh(1)
    train_step = step.build_train_step(graphdef, optimizer, mesh, skips_non_finite=True)
    state = step.initial_state(params, optimizer, seed=0, has_average=False, carried=carried)
    state, _ = train_step(state, batch_of(6, 10), None)
    assert int(state.step) == 1
    assert int(state.carried["rows"][...]) == 0
    assert float(state.carried["centroid"][...]) == 0.0


def test_translating_has_the_average_of_what_is_averaged_and_the_rest_as_it_is() -> None:
    """The decay of the first update is (1 + 0) / (10 + 0): nine tenths of the way from 0 to 4."""
    state = trained(batch_of(6, 10), decay=0.9)
    assert float(state.carried["centroid"][...]) == 4.0
    np.testing.assert_allclose(state.translating["centroid"][...], 3.6, rtol=1e-6)
    assert int(state.translating["rows"][...]) == 2
    assert set(state.translating) == {"weight", "centroid", "rows", "mask"}


def test_a_checkpoint_brings_carried_arrays_back_bit_for_bit(tmp_path: Path) -> None:
    for decay in (None, 0.9):
        state = trained(batch_of(6, 11), batch_of(7, 9), decay=decay)
        checkpoints = Checkpoints(tmp_path / str(decay))
        checkpoints.save(state, {}, score=None)
        restored, _ = checkpoints.restore(trained(decay=decay))
        for leaf, expected in zip(*map(jax.tree.leaves, (restored, state)), strict=True):
            if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                np.testing.assert_array_equal(leaf, expected)
        _, shapes = nnx.split(nnx.eval_shape(Clusters))
        translating = checkpoints.params(2, shapes)
        jax.tree.map(np.testing.assert_array_equal, translating, state.translating)
        checkpoints.close()

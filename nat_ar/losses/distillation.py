"""Learning from a teacher's distributions."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def reverse_kl(
    student: Float[Array, "rows width vocabulary"],
    teacher: Float[Array, "rows width vocabulary"],
    lengths: Int[Array, "rows"],
) -> Float[Array, "rows width"]:
    """KL(student || teacher) of two models' logits, in nats at each position within the length, 0 past it. The
    teacher gets no gradient."""
    log_q = jax.nn.log_softmax(jax.lax.stop_gradient(teacher))
    log_p = jax.nn.log_softmax(student)
    divergence = (jnp.exp(log_p) * (log_p - log_q)).sum(axis=-1)
    return jnp.where(jnp.arange(student.shape[1]) < lengths[:, None], divergence, 0.0)

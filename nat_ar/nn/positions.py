"""Sinusoidal position encodings (Vaswani et al. 2017, section 3.5)."""

import numpy as np
from jaxtyping import Float


def sinusoids(length: int, d_model: int) -> Float[np.ndarray, "length d_model"]:
    """Row p holds sin(p / 10000^(2i/d)) in its first half and the cosines in its second.

    A constant of the compiled program, not a parameter."""
    rates = 10_000.0 ** (-np.arange(0, d_model, 2) / d_model)
    angles = np.arange(length)[:, None] * rates[None, :]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)[:, :d_model].astype(np.float32)

"""Compiling is most of what these tests wait for: XLA optimises little here, which halves it."""

import jax

jax.config.update("jax_disable_most_optimizations", True)

"""nat_ar: autoregressive against non-autoregressive machine translation in JAX, compared fairly."""

__version__ = "0.1.0"

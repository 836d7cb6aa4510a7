"""What libraries of kernels for XLA's programs have in common: how they are loaded, and where they are called."""

import contextlib
import contextvars
import ctypes
import importlib.metadata
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax

from nat_ar.runtime import native_library


def load(
    source: Path, *, without: str, parts: tuple[str, ...], targets: Mapping[str, str]
) -> ctypes.CDLL | None:
    """The library of a C++ file, its kernels registered for CPUs; None where JAX's default is no CPU, or nothing can be
    built. `without`, `parts`: as native_library.load has them; targets: name in XLA's programs -> symbol."""
    if jax.default_backend() != "cpu":
        return None
    headers = native_library.Headers(jax.ffi.include_dir(), importlib.metadata.version("jaxlib"))
    library = native_library.load(source, without=without, parts=parts, headers=headers)
    if library is not None:
        for name, symbol in targets.items():
            capsule = jax.ffi.pycapsule(getattr(library, symbol))
            jax.ffi.register_ffi_target(name, capsule, platform="cpu")
    return library


class Switch:
    """Whether kernels may be called by code that does not know whom it computes for.

    It is a variable of the context, not an argument: a search gets logits from a step function and knows no network,
    and every function between that knows and that calls would have to pass it on. It is read while a program is
    traced, so a compiled program keeps the choice it was traced with."""

    def __init__(self, name: str) -> None:
        self._is_on = contextvars.ContextVar(name, default=False)

    @contextlib.contextmanager
    def set(self, is_on: bool) -> Iterator[None]:
        """Inside this context the choice is this one."""
        token = self._is_on.set(is_on)
        try:
            yield
        finally:
            self._is_on.reset(token)

    def is_on(self) -> bool:
        """The choice of the innermost context; False outside, as for programs for other machines."""
        return self._is_on.get()

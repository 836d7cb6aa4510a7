"""nat_ar: autoregressive against non-autoregressive machine translation in JAX, compared fairly.

    model = nat_ar.load("runs/fertility", decoding="NoisyParallel(samples=10)")
    model.translate(["The man calls up the sister ."])
    model.score(["Thanks a lot ."], ["Vielen Dank ."])
    model.internals(["Thanks a lot ."])
    nat_ar.caption("runs/fertility", "Retranslate(mask_k=2)").replay("Thanks a lot .")
    nat_ar.evaluate("runs/fertility", split="test")["bleu"]["score"]

Importing the package loads nothing else: JAX comes with the first use of a name below, and with it the
compilation cache. `__init__.pyi` has their signatures."""

import importlib
from typing import Any

__version__ = "0.1.0"

DOOR = {
    "load": "nat_ar.pipeline.load",
    "train": "nat_ar.pipeline.train",
    "ensemble": "nat_ar.pipeline.ensemble",
    "distill": "nat_ar.pipeline.distill",
    "evaluate": "nat_ar.pipeline.evaluate",
    "benchmark": "nat_ar.pipeline.benchmark",
    "compare": "nat_ar.pipeline.compare",
    "study": "nat_ar.pipeline.study",
    "caption": "nat_ar.pipeline.stream",
}
"""What can be called, and the module that has it."""


def __getattr__(name: str) -> Any:
    if name not in DOOR:
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}; it has {', '.join(DOOR)}"
        )
    importlib.import_module("nat_ar.runtime.compilation").use_cache()
    return getattr(importlib.import_module(DOOR[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *DOOR])

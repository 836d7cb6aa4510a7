"""Runs one section in this process: python -m scripts.benchmark_cpu.section NAME --output FILE.

Each section has a process of its own, because it decides how memory is allocated and what is compiled."""

import argparse
import importlib
import os
import sys
import time
from pathlib import Path

from scripts.benchmark_cpu import report
from scripts.benchmark_cpu.report import Section

NAMES = (
    "machine",
    "products",
    "train",
    "small",
    "decode",
    "ctranslate2",
    "length",
    "threads",
    "start",
    "data",
)
EXTRA = ("kernels",)
"""Run only if --only names them."""
ALL = (*NAMES, *EXTRA)
MODULES = {name: f"scripts.benchmark_cpu.{name}" for name in ALL} | {
    "ctranslate2": "scripts.benchmark_cpu.engine"
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=ALL)
    parser.add_argument("--output", type=Path, required=True, help="results.jsonl to write")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter with torch")
    arguments = parser.parse_args()
    os.environ["NAT_AR_TORCH_PYTHON"] = arguments.torch_python
    start = time.monotonic()
    import jax

    # Programs from a persistent cache are slower than those just compiled (nat_ar/runtime/malloc.py).
    jax.config.update("jax_compilation_cache_dir", None)
    from nat_ar.evaluation.speed import machine
    from scripts.benchmark_cpu import models

    section = Section(arguments.name)
    section.signature = {
        "device": machine.device_name(),
        "threads": str(machine.num_threads()),
        "cores": " ".join(map(str, machine.cores())),
        "dtype": "float32",
        **machine.versions(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    if flags := os.environ.get("XLA_FLAGS"):
        section.signature["XLA_FLAGS"] = flags
    scale = models.QUICK if arguments.quick else models.FULL
    importlib.import_module(MODULES[arguments.name]).run(section, scale)
    section.seconds = time.monotonic() - start
    report.write(arguments.output, [section])


if __name__ == "__main__":
    main()

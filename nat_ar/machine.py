"""What this process runs on: facts that stand beside every number."""

import importlib.metadata
import os
import platform
from pathlib import Path

import jax


def device_name() -> str:
    """Platform and kind of the device; of a CPU its model, since JAX calls all of them "cpu"."""
    device = jax.local_devices()[0]
    kind = _cpu_model() if device.platform == "cpu" else device.device_kind
    return f"{device.platform}: {kind}"


def _cpu_model() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text("utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def num_threads() -> int:
    """CPU cores that this process may use: XLA's thread pool has as many threads."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def versions() -> dict[str, str]:
    packages = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax")}
    return {"python": platform.python_version(), **packages}

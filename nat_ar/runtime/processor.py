"""The processor of this machine: what it is called, and the vector instructions that decide how fast its kernels are.

A hypervisor may hide a name ("AMD EPYC" is any of five generations) and instructions. Family and model, and what is
left of the instructions, tell two such processors apart."""

import functools
import platform
from pathlib import Path

EXTENSIONS = (
    "avx2",
    "fma",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "i8mm",
    "sve",
)
"""Of x86 and ARM, as Linux calls them."""


@functools.cache
def _first(path: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """The fields of the first core; none where there is no such file."""
    if not path.exists():
        return {}
    core = path.read_text("utf-8", errors="replace").split("\n\n")[0]
    fields = (line.partition(":") for line in core.splitlines())
    return {key.strip(): value.strip() for key, _, value in fields}


def name() -> str:
    """The model name."""
    core = _first()
    if "CPU part" in core:  # ARM has numbers for names
        return f"ARM {core.get('CPU implementer', '')} {core['CPU part']}"
    return core.get("model name") or platform.processor() or platform.machine()


def vendor() -> str:
    """As Linux says it ("AuthenticAMD"); empty where the platform does not tell."""
    return _first().get("vendor_id", "")


def extensions() -> tuple[str, ...]:
    """Those of EXTENSIONS that it has; empty where the platform does not tell."""
    core = _first()
    has = set((core.get("flags") or core.get("Features") or "").split())
    return tuple(extension for extension in EXTENSIONS if extension in has)


def kind() -> str:
    """Name, family and model, and vector extensions: processors of one kind have comparable ratios of times."""
    core = _first()
    numbers = [
        f"{key.removeprefix('cpu ')} {core[key]}" for key in ("cpu family", "model") if key in core
    ]
    hidden = f" ({', '.join(numbers)})" if numbers else ""
    return f"{name()}{hidden}, {' '.join(extensions()) or 'extensions unknown'}"

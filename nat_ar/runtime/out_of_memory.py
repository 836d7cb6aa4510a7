"""Too little memory, said with sizes and with what to lower."""

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax

GIB = 2**30
MAPPINGS = Path("/proc/self/maps")
MAPPINGS_LIMIT = Path("/proc/sys/vm/max_map_count")
MAPPINGS_SHARE = 0.95
"""Of the limit: what is left is for a program that is being compiled, and for arrays."""


class OutOfMemoryError(MemoryError):
    """Explained: with sizes, and with a remedy."""


@contextlib.contextmanager
def explained(remedy: str) -> Iterator[None]:
    """Turns XLA's error into an OutOfMemoryError of one line: what was asked for, what there is, the remedy.

    On a CPU, Linux may instead kill the process (exit status 137): nobody can explain that afterwards."""
    try:
        yield
    except OutOfMemoryError:
        raise
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        text = str(error)
        is_memory = re.search("RESOURCE_EXHAUSTED|out of memory", text, re.IGNORECASE)
        if not is_memory and not isinstance(error, MemoryError):
            raise
        raise OutOfMemoryError(
            f"out of memory: {_wanted(text)}, {_available(jax.local_devices())}; {remedy}"
        ) from error


def free_bytes(device: jax.Device) -> int:
    """Memory that nothing uses yet; of a CPU, what the system could give without swapping."""
    stats = device.memory_stats()
    if stats is not None and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    facts = Path("/proc/meminfo")
    found = re.search(r"MemAvailable: +(\d+) kB", facts.read_text()) if facts.exists() else None
    if found is not None:
        return 1024 * int(found[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def require_mappings(remedy: str) -> None:
    """Raises OutOfMemoryError where this process has used up nearly all mappings of memory that Linux gives it. Every
    compiled program takes some forty, and XLA dies of one too many."""
    if not (MAPPINGS.exists() and MAPPINGS_LIMIT.exists()):
        return
    used, limit = MAPPINGS.read_bytes().count(b"\n"), int(MAPPINGS_LIMIT.read_text())
    if used > MAPPINGS_SHARE * limit:
        raise OutOfMemoryError(
            f"out of memory: compiled programs have {used:,} of the {limit:,} mappings of a process; {remedy}, "
            f"or allow more by `sysctl -w vm.max_map_count={16 * limit}`"
        )


def _wanted(text: str) -> str:
    found = re.search(r"allocat\w* ([\d.]+ ?[KMGT]?i?B|\d+ bytes)", text)
    if found is None:
        return "the size asked for is not known"
    size = found[1]
    if size.endswith(" bytes"):
        size = f"{int(size.removesuffix(' bytes')) / GIB:.1f} GiB"
    return f"{size} were asked for at once"


def _available(local: Sequence[jax.Device]) -> str:
    """Of the device of this process that is fullest, by its number where there are others."""
    device = min(local, key=free_bytes)
    stats = device.memory_stats()
    if stats is not None and "bytes_limit" in stats:
        total, used = stats["bytes_limit"], stats.get("bytes_in_use", 0)
        name = device.device_kind + (f" {device.id}" if len(local) > 1 else "")
        return f"{name} has {total / GIB:.1f} GiB, {used / GIB:.1f} of them in use"
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_AVPHYS_PAGES")
    return f"the machine has {total * page / GIB:.1f} GiB, {free * page / GIB:.1f} of them free"

"""Freed memory stays with the process."""

import statistics
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

PROGRAM = """
import resource, sys
from nat_ar.runtime import malloc
if sys.argv[1] == "keep" and not malloc.keep_freed_memory():
    print("no glibc"); sys.exit()
import jax, jax.numpy as jnp

call = jax.jit(lambda x: jnp.cumsum(jnp.flip(x) * 2.0).sum())
x = jnp.ones(8_000_000)
assert call.lower(x).compile().memory_analysis().temp_size_in_bytes > 63e6
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    call(x).block_until_ready()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(*(faults() for _ in range(31)))
"""


def page_faults(how: str) -> list[int]:
    """Of each of 31 calls."""
    run = [sys.executable, "-c", PROGRAM, how]
    printed = subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()
    if printed == "no glibc":
        pytest.skip("this system's C library has no mallopt")
    return [int(faults) for faults in printed.split()]


def test_a_call_meets_the_pages_of_earlier_calls() -> None:
    """64 MB of temporary memory are 15,600 pages of 4 kB. The first calls may find their buffers at another
    place each (eight of them did), and one now and then after them."""
    assert statistics.median(page_faults("keep")) < 1_000
    assert statistics.median(page_faults("as it comes")) > 15_000

"""Freed memory stays with the process."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from nat_ar import allocator
if sys.argv[1] == "keep" and not allocator.keep_freed_memory():
    print("no glibc"); sys.exit()
import jax, jax.numpy as jnp
call = jax.jit(lambda x: jnp.cumsum(jnp.flip(x) * 2.0).sum())
x = jnp.ones(8_000_000)
assert call.lower(x).compile().memory_analysis().temp_size_in_bytes > 63e6
for _ in range(5):
    call(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    call(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    run = [sys.executable, "-c", PROGRAM, how]
    printed = subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()
    if printed == "no glibc":
        pytest.skip("this system's C library has no mallopt")
    return int(printed)


def test_a_call_meets_the_pages_of_the_call_before() -> None:
    """64 MB of temporary memory are 15,600 pages of 4 kB, five times over; one call in five may still find
    its buffers at a new place."""
    assert page_faults("keep") < 17_000 < 70_000 < page_faults("as it comes")

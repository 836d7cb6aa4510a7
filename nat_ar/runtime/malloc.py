"""How the C library hands out memory, where that decides a CPU's speed."""

import ctypes

# malloc.h of glibc
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory instead of giving it back to the system; False where there is no
    glibc. Says nothing about memory that was allocated before.

    XLA's CPU backend allocates a program's temporary buffers anew for each call. Large ones come from mmap
    and go back to the system at the end of the call, so that a train step of 320 MB met every page of
    them again: 78,000 page faults and a fifth of its CPU time.

    Programs that compile and then run for a few milliseconds are better off without: threads wait for each
    other at the one arena (200 instead of 90 context switches a train step of 0.1 s), and a sentence of the
    toy's length NAT took 2.7 instead of 2.3 ms (medians of three fresh processes that compiled first; 3.6
    and 3.6 where the programs came from the persistent cache)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = {
        M_ARENA_MAX: 1,  # arenas of other threads are too small for such buffers
        M_MMAP_MAX: 0,
        M_TRIM_THRESHOLD: 2**31 - 1,
        M_TOP_PAD: 2**28,
    }
    accepted = [mallopt(name, value) == 1 for name, value in settings.items()]
    return all(accepted)

"""Other work on the cores that a benchmark uses: whether its numbers are those of an idle machine.

Read from /proc/stat, which only Linux has: the time that the cores were busy, less the time of this process. What
another virtual machine takes from them counts as well ("steal")."""

import dataclasses
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STATISTICS = Path("/proc/stat")
TOLERATED = 0.05
"""Share of the cores, and at least of two, that an idle machine's own services may keep busy."""
IDLE_COLUMNS = (3, 4)
"""of a core's line: idle, and waiting for a disk"""
NUM_COLUMNS = 8
"""the others repeat time of virtual machines that is counted under user"""


@dataclasses.dataclass(frozen=True)
class OtherWork:
    """What other processes took while systems were timed."""

    busy: float
    """cores, on average"""
    cores: int
    """that the benchmark might use"""

    @property
    def is_too_much(self) -> bool:
        """Whether it took more than the benchmark leaves free: XLA's pool has a thread for each core."""
        return self.busy > TOLERATED * max(self.cores, 2)

    def __str__(self) -> str:
        return f"other work kept {self.busy:.1f} of {self.cores} cores busy"


def of_row(row: dict[str, Any]) -> OtherWork | None:
    """That of a speed row, if it was too much; rows of early versions do not know."""
    found = row.get("other_work")
    work = None if found is None else OtherWork(**found)
    return work if work is not None and work.is_too_much else None


@contextmanager
def measured(cores: Sequence[int]) -> Iterator[list[OtherWork]]:
    """A list that after the block holds the other work on these cores; it stays empty where the platform does not
    tell."""
    found: list[OtherWork] = []
    if not STATISTICS.exists() or not cores:
        yield found
        return
    start, before, own = time.monotonic(), busy_seconds(cores), time.process_time()
    yield found
    seconds = max(time.monotonic() - start, 1e-3)
    others = busy_seconds(cores) - before - (time.process_time() - own)
    found.append(OtherWork(round(max(others, 0.0) / seconds, 2), len(cores)))


def busy_seconds(cores: Sequence[int]) -> float:
    """How long these cores have been busy since the machine was started."""
    ticks, wanted = 0, {f"cpu{core}" for core in cores}
    for line in STATISTICS.read_text("utf-8").splitlines():
        name, *columns = line.split()
        if name in wanted:
            counts = [int(column) for column in columns[:NUM_COLUMNS]]
            ticks += sum(counts) - sum(counts[column] for column in IDLE_COLUMNS)
    return ticks / os.sysconf("SC_CLK_TCK")

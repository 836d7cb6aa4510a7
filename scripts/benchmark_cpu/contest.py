"""Everyone at their best: each system runs with several numbers of threads, and that with the lowest median counts.

More threads are not always faster: those of some engines wait for each other longer than they work, and a hypervisor
may run two of them in turns."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float

from nat_ar.evaluation.speed import intervals
from nat_ar.evaluation.speed.intervals import Interval
from scripts.benchmark_cpu.report import Row


@dataclasses.dataclass(frozen=True)
class Setting:
    """How a system runs."""

    system: str
    kind: str
    """of arithmetic: only settings of one kind compete"""
    threads: int
    note: str = ""
    """of what else may differ: "compiled" """

    @property
    def label(self) -> str:
        return " ".join(part for part in (self.system, self.kind, self.note) if part)


@dataclasses.dataclass(frozen=True)
class Timed:
    """A setting and its seconds, round by round."""

    setting: Setting
    seconds: Float[np.ndarray, "rounds"]


def thread_counts(cores: int) -> tuple[int, ...]:
    """1, 2, 4, ... and all cores."""
    powers = (2**i for i in range(cores.bit_length()))
    return tuple(sorted({*(n for n in powers if n < cores), cores}))


def best(timed: Iterable[Timed], system: str, kind: str | None = None) -> Timed:
    """The fastest of a system's settings, of all kinds or of one."""
    own = [
        one for one in timed if one.setting.system == system and kind in (None, one.setting.kind)
    ]
    return min(own, key=lambda one: float(np.median(one.seconds)))


def speed_over(timed: Sequence[Timed], ours: str, peer: str, kind: str) -> Interval:
    """How many times as fast as the peer's best of this kind our best is."""
    return intervals.median_ratio(best(timed, peer, kind).seconds, best(timed, ours, kind).seconds)


def rows(timed: Sequence[Timed], ours: str, *, sentences: int) -> list[Row]:
    """A line for each setting: what counts is marked, and compared with our best of the same kind."""
    lines: list[Row] = []
    for one in timed:
        setting = one.setting
        counts = best(timed, setting.system, setting.kind) is one
        lines.append(
            {
                "system": setting.label,
                "threads": setting.threads,
                "counts": "yes" if counts else "",
                "ms/sentence": intervals.median(1e3 * one.seconds / sentences),
                f"x {ours} of its kind": intervals.median_ratio(
                    best(timed, ours, setting.kind).seconds, one.seconds
                ),
            }
        )
    return lines

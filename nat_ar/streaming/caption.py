"""What a caption shows while its source goes on: text cut into units, and the updates that changed it. No model."""

import dataclasses
from typing import Literal

from nat_ar.data.units import Units
from nat_ar.evaluation import latency
from nat_ar.evaluation.latency import Number

Clock = Literal["wall", "processor"]


@dataclasses.dataclass(frozen=True)
class Update:
    """What a caption showed from one moment on."""

    source: Units
    """the units that had been read"""
    is_final: bool
    """the source has ended"""
    output: Units
    """the units of the whole translation, of which the last ones may be held back"""
    shown: Units
    kept: int
    """of the units that were shown before, those that stayed: all before the first that changed"""
    erased: int
    """of the units that were shown before, those that went"""
    seconds: float
    """from text to text, on the clock of the wall; NaN where it was translated with others"""
    processor_seconds: float
    """the same, of all threads of the process"""
    passes: int
    """sequential decoder passes"""


@dataclasses.dataclass(frozen=True)
class Caption:
    """The updates of one text, first to last."""

    updates: tuple[Update, ...]

    @property
    def source_length(self) -> int:
        return len(self.updates[-1].source)

    @property
    def final(self) -> Units:
        """The units of the last text."""
        return self.updates[-1].shown

    @property
    def shown(self) -> list[Units]:
        """The text of every update."""
        return [update.shown for update in self.updates]

    def delays(self) -> list[int]:
        """Source units that had been read when each unit of the last text was there to stay."""
        return [len(self.updates[index].source) for index in latency.settled(self.shown)]

    def computing_delays(self, pace: float, clock: Clock = "wall") -> list[Number]:
        """The same with the time that translating took, of a source that says `pace` units a second: the time at which
        each unit was there to stay, in the time that a unit takes. An update begins when its unit is there and the one
        before is done."""
        arrivals = [len(update.source) / pace for update in self.updates]
        is_wall = clock == "wall"
        seconds = [
            update.seconds if is_wall else update.processor_seconds for update in self.updates
        ]
        done = latency.finished(arrivals, seconds)
        return [done[index] * pace for index in latency.settled(self.shown)]

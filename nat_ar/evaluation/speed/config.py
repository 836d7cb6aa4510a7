"""On how much text and for how long systems are timed."""

import dataclasses

from nat_ar.config_json import ConfigError

MIN_REPETITIONS = 3
"""A median over fewer says little."""
MIN_SENTENCES = 10
"""An interval over fewer says little: as many are timed however slow a system is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeedConfig:
    """On how much text and for how long systems are timed."""

    sentences: int = 100
    """sentences of the latency: evenly out of the split sorted by length; empty lines never"""
    repetitions: int = 5
    """times that each sentence is translated, at least 3; passes of the throughput, at most"""
    batch_sizes: tuple[int, ...] = (1, 8, 64)
    """sentences of a batch, powers of two; each size costs one or two compilations for each bucket of
    lengths, so the ladder is wide"""
    grow_batches: bool = False
    """after the largest of batch_sizes go on doubling, each system as long as its batches get larger:
    until its program does not fit the device, or throughput_sentences fill no larger one. These are then
    never cut for time"""
    throughput_sentences: int = 256
    """sentences of the throughput, chosen like those of the latency"""
    floors: bool = True
    """count the FLOPs of every sentence and measure the machine's peaks; costs a further compilation for
    each shape at batch 1"""
    max_seconds: float = 60.0
    """time for each system besides compiling and warming up: half for the latency, half for the
    throughput. What does not fit is cut for all systems alike: first repetitions (to 3; passes of the
    throughput to 1), then sentences (to 10; those of the throughput to the largest batch). Rows say how
    many there were"""

    def __post_init__(self) -> None:
        if self.repetitions < MIN_REPETITIONS:
            raise ConfigError(
                f"expected at least {MIN_REPETITIONS} repetitions, got {self.repetitions}"
            )
        for name in ("sentences", "throughput_sentences", "max_seconds"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name)}")
        if any(size < 1 or size & (size - 1) for size in self.batch_sizes):
            raise ConfigError(f"batch_sizes must be powers of two, got {self.batch_sizes}")

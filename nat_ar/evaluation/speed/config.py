"""On how much text and for how long systems are timed."""

import dataclasses

from nat_ar import config_json
from nat_ar.config_json import ConfigError

MIN_REPETITIONS = 3
"""A median over fewer is too noisy."""
MIN_SENTENCES = 10
"""Timed however slow a system is: an interval over fewer is too wide."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeedConfig(config_json.Config):
    """On how much text and for how long systems are timed."""

    sentences: int = 100
    """sentences of the latency, evenly spaced in the split sorted by length, empty lines left out"""
    repetitions: int = 5
    """how often each sentence is translated, at least 3; the most passes of the throughput"""
    batch_sizes: tuple[int, ...] = (1, 8, 64)
    """sentences of a batch, powers of two; each size costs one or two compilations for each bucket of lengths"""
    grow_batches: bool = False
    """double the largest of batch_sizes until a system's program no longer fits the device, or
    throughput_sentences fill no larger batch; throughput_sentences are then not cut for time"""
    throughput_sentences: int = 256
    """sentences of the throughput, chosen like those of the latency"""
    floors: bool = True
    """count the FLOPs of every sentence and measure the machine's peaks; costs a further compilation for
    each shape at batch 1"""
    max_seconds: float = 60.0
    """time for each system besides compiling and warming up: half for the latency, half for the
    throughput. Beyond it all systems are cut alike: first repetitions (to 3; passes of the throughput to 1), then
    sentences (to 10; those of the throughput to the largest batch). Rows have the numbers that were timed"""

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

"""A translator on several devices: its batches are dealt round, each by a program for one device.

No program spans devices: its loop would go on until the longest sentence of them all has ended, and texts would depend
on the number of devices."""

import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np
from jaxtyping import Int

from nat_ar.runtime import lanes
from nat_ar.translation.model import Drafter, Model
from nat_ar.types import Hypotheses


@runtime_checkable
class Decoder(Protocol):
    """What is copied of a Translator."""

    model: Model
    ready_model: Model
    ready_scorer: Model | None
    ready_drafter: Drafter | None
    compiled: dict[tuple[int, int], Any]

    def compile(self, rows: int, bucket: int) -> Any: ...

    def decode(self, source: Int[np.ndarray, "rows bucket"]) -> Hypotheses: ...


T = TypeVar("T", bound=Decoder)


class Copies:
    """The copies of one translator, each made when its device gets its first batch, and anew when the translator has
    taken other parameters."""

    def __init__(self) -> None:
        self._copies: dict[jax.Device, Any] = {}
        self._programs: dict[jax.Device, dict[tuple[int, int], Any]] = {}

    def free(self) -> None:
        """Lets go of the parameters until they are needed again; compiled programs are kept."""
        self._copies.clear()

    def decoded(
        self,
        translator: Decoder,
        devices: Sequence[jax.Device],
        batches: Iterable[Int[np.ndarray, "rows bucket"]],
        number: int,
    ) -> Iterator[Hypotheses]:
        """Those of each of `number` padded batches, in order. Batch k is decoded by device k mod their number; the
        first is the translator's own, be it among `devices` or not."""
        own = translator.ready_model.leaves[0].devices()
        others = [device for device in devices if device not in own]
        if number < 2 or not others:
            return map(translator.decode, batches)
        lane_devices = [None, *others][:number]

        def tasks() -> Iterator[Callable[[], Hypotheses]]:
            for k, batch in enumerate(batches):
                one = self._on(lane_devices[k % len(lane_devices)], translator)
                one.compile(*batch.shape)  # in this thread, a program at a time
                yield functools.partial(_decoded, one, batch)

        return lanes.in_order(tasks(), len(lane_devices))

    def _on(self, device: jax.Device | None, translator: T) -> T:
        """The translator on a device; None: where it is."""
        if device is None:
            return translator
        known = self._copies.get(device)
        if known is None or known.model is not translator.model:
            known = copy.copy(translator)
            known.compiled = self._programs.setdefault(device, {})
            known.ready_model = translator.ready_model.on(device)
            if translator.ready_scorer is not None:
                known.ready_scorer = translator.ready_scorer.on(device)
            if translator.ready_drafter is not None:
                known.ready_drafter = translator.ready_drafter.on(device)
            self._copies[device] = known
        return known


def _decoded(translator: Decoder, batch: Int[np.ndarray, "rows bucket"]) -> Hypotheses:
    return jax.block_until_ready(translator.decode(batch))

"""What the devices of a compiled program exchange: bytes, by kind, read from the text of its HLO.

XLA's partitioner decides where devices exchange what, so that only the compiled program knows. A loop's exchanges count
as often as the loop runs, where the compiler knows it, and once where it does not."""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f64": 8, "c64": 8}
BYTES |= {"f32": 4, "s32": 4, "u32": 4, "s64": 8, "u64": 8}
"""of a number, by its type in HLO"""
COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
INSTRUCTION = re.compile(rf"^\s*(?:ROOT )?%?[\w.\-]+ = (.*?) ({'|'.join(KINDS)})(-start)?\(")
ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
CALLED = re.compile(
    r"\b(?:body|condition|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)"
)
BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
LISTED = re.compile(r"replica_groups=\{(.*?)\}(?:,|$)")
IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
MESH = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}"
)


@dataclasses.dataclass(frozen=True)
class Exchange:
    """One kind of collective within groups of one size, all of a step together."""

    kind: str
    members: int
    """devices of a group, which exchange among themselves"""
    crosses: bool
    """whether a group has devices of several machines"""
    num_bytes: int
    """of whole arrays: what is summed, or what each member has after gathering"""

    @property
    def sent_bytes(self) -> float:
        """By each device, where a group is a ring (Patarasuk & Yuan 2009): an all-reduce is a reduce-scatter and an
        all-gather, and these send all but a device's own part."""
        if self.kind == "collective-permute":
            return float(self.num_bytes)
        turns = 2 if self.kind == "all-reduce" else 1
        return turns * self.num_bytes * (self.members - 1) / self.members


def of_program(text: str, *, devices_per_machine: int) -> list[Exchange]:
    """Of one run of the program with this HLO, the largest first. Devices are numbered machine by machine.

    Raises ValueError for a collective in a form that is not known here."""
    computations, entry = _computations(text)
    partitions = re.search(r"num_partitions=(\d+)", text)
    number = int(partitions[1]) if partitions else 1

    @functools.cache
    def of(name: str) -> collections.Counter[tuple[str, int, bool]]:
        found: collections.Counter[tuple[str, int, bool]] = collections.Counter()
        for line in computations.get(name, ()):
            if match := INSTRUCTION.match(line):
                kind, groups = match[2], _groups(line, number)
                if match[3]:
                    raise ValueError(
                        f"cannot count an asynchronous collective: {line.strip()[:200]}"
                    )
                size = _size(match[1]) * (len(groups[0]) if kind == "reduce-scatter" else 1)
                machines = groups // devices_per_machine
                crosses = bool((machines != machines[:, :1]).any())
                found[kind, groups.shape[1], crosses] += size
                continue
            for called, times in _calls(line):
                for key, size in of(called).items():
                    found[key] += times * size
        return found

    exchanges = [Exchange(*key, size) for key, size in of(entry).items() if key[1] > 1]
    return sorted(exchanges, key=lambda exchange: -exchange.num_bytes)


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation, and the name of that in which the program begins."""
    found: dict[str, list[str]] = {}
    lines: list[str] | None = None
    entry = ""
    for line in text.splitlines():
        if match := COMPUTATION.match(line):
            lines = found.setdefault(match[1], [])
            entry = match[1] if line.startswith("ENTRY") else entry
        elif line == "}":
            lines = None
        elif lines is not None:
            lines.append(line)
    return found, entry


def _calls(line: str) -> Iterator[tuple[str, int]]:
    """The computations that an instruction runs, and how often."""
    trips = TRIPS.search(line)
    times = int(trips[1]) if trips and " while(" in line else 1
    for name in CALLED.findall(line):
        yield name, times
    if branches := BRANCHES.search(line):
        for name in branches[1].split(","):
            yield name.strip().lstrip("%"), 1


def _size(shape: str) -> int:
    """Bytes of an array, or of all arrays of a tuple."""
    return sum(BYTES[dtype] * math.prod(_numbers(sizes)) for dtype, sizes in ARRAY.findall(shape))


def _numbers(text: str | None) -> list[int]:
    return [int(number) for number in text.split(",")] if text else []


def _groups(line: str, number: int) -> Int[np.ndarray, "groups members"]:
    """Which devices exchange with each other, in any of the forms in which HLO writes it."""
    if "source_target_pairs=" in line:
        pairs = re.findall(
            r"\{(\d+),(\d+)\}", line.split("source_target_pairs=")[1].split("}}")[0] + "}"
        )
        return np.array([[int(one), int(other)] for one, other in pairs])
    if match := MESH.search(line):
        axes = dict(re.findall(r"'([^']*)'=(\d+)", match[1]))
        chosen = re.findall(r"'([^']*)'", match[4])
        sizes = [int(size) for size in axes.values()]
        ids = _iota(_numbers(match[2]) or sizes, _numbers(match[3])).reshape(sizes)
        inside = [list(axes).index(name) for name in chosen]
        outside = [axis for axis in range(len(sizes)) if axis not in inside]
        members = math.prod(sizes[axis] for axis in inside)
        return ids.transpose(*outside, *inside).reshape(-1, members)
    if match := IOTA.search(line):
        return _iota(_numbers(match[2]), _numbers(match[3])).reshape(_numbers(match[1]))
    if match := LISTED.search(line):
        groups = [
            _numbers(group) for group in re.findall(r"[\d,]+", match[1].replace("},{", "} {"))
        ]
        return np.array(groups) if groups else np.arange(number)[None]
    raise ValueError(f"cannot read which devices exchange: {line.strip()[:200]}")


def _iota(shape: Sequence[int], order: Sequence[int]) -> Int[np.ndarray, "..."]:
    """0, 1, 2 ... in that shape, with its axes in that order."""
    ids = np.arange(math.prod(shape)).reshape(shape)
    return ids.transpose(order) if order else ids

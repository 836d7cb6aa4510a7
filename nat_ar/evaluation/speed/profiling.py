"""Where the time of a sentence goes: a trace that TensorBoard and Perfetto open, and a table made of it.

The network names its parts by `jax.named_scope`; the compiled program keeps the names in the metadata of its
instructions, and the trace has the times of each instruction. A fusion counts for the part that its result belongs
to. Tracing slows down a program of many small operations, so only shares are taken from the trace: milliseconds
are these shares of the latency that was measured without it."""

import bisect
import collections
import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from nat_ar.evaluation.results import Row
from nat_ar.evaluation.speed import driver, sample
from nat_ar.translation.translator import DETOKENIZER, TOKENIZER, Translator

SCOPES = ("encoder", "decoder", "vocabulary")
"""Names of the scopes in nat_ar/nn and nat_ar/methods; the innermost counts."""
SEARCH, BETWEEN, HOST = "search", "between", "host"
PIECES = {
    TOKENIZER: "tokenizer",
    "encoder": "encoder",
    "decoder": "decoder",
    "vocabulary": "vocabulary projection",
    SEARCH: "search and all else in the program",
    BETWEEN: "device: between instructions",
    DETOKENIZER: "detokenizer",
    HOST: "host: dispatch, padding, copies",
}
"""Pieces of a sentence's latency in the order of the table -> their names in the table."""
SENTENCE = "nat_ar.sentence"
"""The event of the trace around one sentence, text to text."""
SENTENCES = 10
"""Sentences that are traced: viewers cannot load a trace of many."""
CONTAINERS = ("while", "conditional")
"""Instructions that only contain others, which are timed themselves."""

Interval = tuple[float, float, str]
"""(start, end, piece) of an instruction; nanoseconds."""


def keep_scopes() -> None:
    """Makes scope names part of the key of JAX's persistent cache, which else may return a program with earlier
    names. Call it before anything is compiled."""
    jax.config.update("jax_compilation_cache_include_metadata_in_key", True)


def measure(
    translator: Translator,
    sentences: Sequence[str],
    seconds: Float[np.ndarray, "sentences"],
    directory: Path,
) -> Row:
    """Traces some of the sentences at batch 1 into the directory.

    seconds: latencies of the sentences without a trace. "pieces_ms" adds up to "latency_ms", their mean over the
    traced sentences."""
    positions = sample.spread_positions(sentences, SENTENCES)
    texts = [sentences[position] for position in positions]
    driver.set_batch(translator, 1)
    plans = [driver.plan(translator, texts)]
    driver.warm_up([translator], texts, plans, driver.WARM_UP_CALLS_ALONE, is_quiet=True)
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # it would time its own bookkeeping of every Python call
    with jax.profiler.trace(directory, create_perfetto_trace=True, profiler_options=options):
        for text in texts:
            with jax.profiler.TraceAnnotation(SENTENCE):
                translator.translate([text], is_quiet=True)
    (trace,) = sorted(directory.rglob("*.xplane.pb"))[-1:]
    events = read_events(trace)
    programs: dict[int, dict[str, str]] = {}
    totals: collections.Counter[str] = collections.Counter()
    for text, window in zip(texts, events.windows(SENTENCE), strict=True):
        bucket = driver.prepare(translator, text)[1]
        if bucket not in programs:
            programs[bucket] = instruction_pieces(translator.compiled[1, bucket].as_text())
        host = [
            (*event, name) for name in (TOKENIZER, DETOKENIZER) for event in events.windows(name)
        ]
        totals.update(pieces_of(window, events.instructions(window, programs[bucket]), host))
    traced, latency = sum(totals.values()), 1000 * float(seconds[positions].mean())
    return {
        "sentences": len(texts),
        "traced_ms": traced / 1e6 / len(texts),
        "latency_ms": latency,
        "pieces_ms": {piece: latency * totals[piece] / traced for piece in PIECES},
    }


def file_name(row: Row) -> str:
    """The system of a row as the name of a directory."""
    return re.sub(r"[^\w.-]+", "_", f"{row['name']} {row['decoding']}").strip("_")


def render(rows: Sequence[Row]) -> str:
    """The pieces of all systems side by side: milliseconds and percent of the latency."""
    header = ["ms a sentence (%)", *(f"{row['name']} {row['decoding']}" for row in rows)]
    table = [header]
    profiles = [row["profile"] for row in rows]
    for piece, title in PIECES.items():
        parts = [(profile["pieces_ms"][piece], profile["latency_ms"]) for profile in profiles]
        table.append([title, *(f"{ms:.3f} ({100 * ms / whole:4.1f})" for ms, whole in parts)])
    table.append(["latency", *(f"{profile['latency_ms']:.3f} (100.0)" for profile in profiles)])
    table.append(["while traced", *(f"{profile['traced_ms']:.3f}        " for profile in profiles)])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(
            [cells[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        )
        for cells in table
    )


# The trace


@dataclasses.dataclass(frozen=True)
class Events:
    """The events of a trace; times in nanoseconds."""

    named: Mapping[str, list[tuple[float, float]]]
    """(start, end) of our own annotations by name, in order of time"""
    device: list[Interval]
    """(start, end, name) of the instructions of compiled programs, in order of time"""

    def windows(self, name: str) -> list[tuple[float, float]]:
        return self.named.get(name, [])

    def instructions(
        self, window: tuple[float, float], pieces: Mapping[str, str]
    ) -> list[Interval]:
        """The instructions that start in the window, with their pieces. Containers, whose piece is "", are left out;
        an unknown instruction belongs to the search."""
        first = bisect.bisect_left(self.device, window[0], key=lambda event: event[0])
        last = bisect.bisect_left(self.device, window[1], key=lambda event: event[0])
        events = [
            (start, end, pieces.get(name, SEARCH)) for start, end, name in self.device[first:last]
        ]
        return [event for event in events if event[2]]


def read_events(path: Path) -> Events:
    """Our annotations and the instructions of an .xplane.pb file."""
    named: dict[str, list[tuple[float, float]]] = {}
    started: list[tuple[float, float, str, Any]] = []
    ended: dict[Any, float] = {}
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            for event in line.events:
                start, end = event.start_ns, event.start_ns + event.duration_ns
                if event.name in (SENTENCE, TOKENIZER, DETOKENIZER):
                    named.setdefault(event.name, []).append((start, end))
                    continue
                stats = dict(event.stats)
                if "hlo_op" in stats:
                    started.append((start, end, str(stats["hlo_op"]), stats.get("_p")))
                elif event.name.startswith("end: "):  # an instruction may end on another thread
                    ended[stats.get("_c")] = start
    device = sorted(
        (start, max(end, ended.get(key, end)), name) for start, end, name, key in started
    )
    return Events({name: sorted(windows) for name, windows in named.items()}, device)


def pieces_of(
    window: tuple[float, float], device: Iterable[Interval], host: Iterable[Interval]
) -> dict[str, float]:
    """The time of each piece within the window; the sum is the window's length.

    Each moment belongs to the instructions that run, in equal parts; if none runs, to the tokenizer or the
    detokenizer; else to BETWEEN, between the first and the last instruction; else to the host."""
    device = [_cut(event, window) for event in device]
    host = [_cut(event, window) for event in host]
    edges = {window[0], window[1], *(edge for event in (*device, *host) for edge in event[:2])}
    first = min((event[0] for event in device), default=window[1])
    last = max((event[1] for event in device), default=window[0])
    totals: dict[str, float] = dict.fromkeys(PIECES, 0.0)
    changes: dict[float, list[tuple[int, str, bool]]] = collections.defaultdict(list)
    for is_device, events in ((True, device), (False, host)):
        for start, end, piece in events:
            if end > start:
                changes[start].append((1, piece, is_device))
                changes[end].append((-1, piece, is_device))
    running: dict[bool, collections.Counter[str]] = {
        True: collections.Counter(),
        False: collections.Counter(),
    }
    order = sorted(edges)
    for here, there in itertools.pairwise(order):
        for change, piece, is_device in changes[here]:
            running[is_device][piece] += change
        active = +running[True] or +running[False]
        for piece, number in active.items():
            totals[piece] += (there - here) * number / active.total()
        if not active:
            totals[BETWEEN if first <= here < last else HOST] += there - here
    return totals


def _cut(event: Interval, window: tuple[float, float]) -> Interval:
    low, high = window
    return min(max(event[0], low), high), min(max(event[1], low), high), event[2]


# The compiled program


@dataclasses.dataclass(frozen=True)
class _Instruction:
    opcode: str
    operands: tuple[str, ...]
    op_name: str
    """its origin in our code: "jit(decode)/while/body/decoder/dot_general"; "" if XLA lost it"""
    calls: str | None
    """name of the computation of a fusion or a call"""
    parameter: int | None
    """its index, if it is a parameter of its computation"""


_HEADER = re.compile(r"(?:ENTRY )?%?([\w.\-]+) .*{$")
_LINE = re.compile(r" +(?:ROOT )?%?([\w.\-]+) = .*? ([a-z][a-z0-9\-]*)\((.*)")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_CALLS = {
    "fusion": re.compile(r"calls=%?([\w.\-]+)"),
    "call": re.compile(r"to_apply=%?([\w.\-]+)"),
}


def instruction_pieces(text: str) -> dict[str, str]:
    """The piece of every instruction of a compiled program by the instruction's name; "" for CONTAINERS.

    An instruction that XLA rewrote may have lost its origin. A fusion then takes the piece of the last instruction
    inside it, a matrix product that of the reshape after it, which still has the product's name, and any other
    instruction that of a neighbour: readers first, then operands."""
    computations = _parse(text)
    pieces = {}
    for instructions in computations.values():
        readers: dict[str, list[str]] = collections.defaultdict(list)
        for name, instruction in instructions.items():
            for operand in instruction.operands:
                readers[operand].append(name)
        for name, instruction in instructions.items():
            names = [instruction.op_name] if instruction.op_name else []
            names = names or _inside(instruction, computations)
            names = names or _of_readers(name, readers[name], instructions, computations)
            names = names or [
                instructions[operand].op_name
                for operand in instruction.operands
                if operand in instructions and instructions[operand].op_name
            ]
            is_container = instruction.opcode in CONTAINERS
            pieces[name] = "" if is_container else _piece(names[0]) if names else SEARCH
    return pieces


def _piece(op_name: str) -> str:
    scopes = [part for part in op_name.split("/") if part in SCOPES]
    return scopes[-1] if scopes else SEARCH


def _inside(
    instruction: _Instruction, computations: Mapping[str, dict[str, _Instruction]]
) -> list[str]:
    """Origins of the instructions within a fusion, last first: the last is its result."""
    inner = computations.get(instruction.calls or "", {})
    return [below.op_name for below in reversed(inner.values()) if below.op_name]


def _of_readers(
    name: str,
    readers: Sequence[str],
    instructions: Mapping[str, _Instruction],
    computations: Mapping[str, dict[str, _Instruction]],
) -> list[str]:
    """Origins of the instructions that read this one, within fusions too; of a product's readers, products first."""
    origins = []
    for reader in (instructions[reader] for reader in readers):
        inner = computations.get(reader.calls or "", {})
        index = reader.operands.index(name)
        inputs = [key for key, below in inner.items() if below.parameter == index]
        direct = [below.op_name for below in inner.values() if set(inputs) & set(below.operands)]
        origins += direct if inner else [reader.op_name]
    origins = [op_name for op_name in origins if op_name]
    is_product = "dot" in instructions[name].opcode
    return sorted(origins, key=lambda op_name: not (is_product and op_name.endswith("dot_general")))


def _parse(text: str) -> dict[str, dict[str, _Instruction]]:
    """{computation: {instruction: ...}} of an HLO module in XLA's text form, by name."""
    computations: dict[str, dict[str, _Instruction]] = {}
    current: dict[str, _Instruction] = {}
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            current = computations.setdefault(header[1], {})
            continue
        matched = _LINE.match(line)
        if not matched:
            continue
        name, opcode, rest = matched.groups()
        op_name = _OP_NAME.search(rest)
        calls = _CALLS[opcode].search(rest) if opcode in _CALLS else None
        arguments = rest.partition(")")[0]
        current[name] = _Instruction(
            opcode,
            tuple(re.findall(r"%([\w.\-]+)", arguments)),
            op_name[1] if op_name else "",
            calls[1] if calls else None,
            int(arguments) if opcode == "parameter" else None,
        )
    return computations

"""Where the time of a sentence goes: a trace that TensorBoard and Perfetto open, and a table made of it.

The network names its parts by `jax.named_scope`; the compiled program keeps the names in the metadata of its
instructions, and the trace says when each instruction ran. A fusion is put down to the part that its result
belongs to. Tracing slows a program of many small operations down, so shares are taken from the trace, and
milliseconds are these shares of the latency that was measured without it."""

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
"""Pieces of a sentence's latency, in the order of the table, and what the table calls them."""
SENTENCE = "nat_ar.sentence"
"""The event of the trace around one sentence, text to text."""
SENTENCES = 10
"""Sentences that are traced: a trace of many is larger than its viewers take."""
CONTAINERS = ("while", "conditional")
"""Instructions whose time is that of the instructions inside."""

Interval = tuple[float, float, str]
"""Start, end (nanoseconds) and piece of what ran."""


def keep_scopes() -> None:
    """To be called before anything is compiled: a program in JAX's persistent cache may have been compiled
    when the scopes had other names, since by default names are no part of the cache's key."""
    jax.config.update("jax_compilation_cache_include_metadata_in_key", True)


def measure(
    translator: Translator,
    sentences: Sequence[str],
    seconds: Float[np.ndarray, "sentences"],
    directory: Path,
) -> Row:
    """Traces some of the sentences at batch 1 into the directory. The translator is warm; `seconds` is what
    the sentences took without a trace. "pieces_ms" adds up to "latency_ms", the mean of these."""
    positions = sample.spread_positions(sentences, SENTENCES)
    texts = [sentences[place] for place in positions]
    driver.set_batch(translator, 1)
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
    return re.sub(r"[^\w.]+", "_", f"{row['name']} {row['decoding']}").strip("_")


def render(rows: Sequence[Row]) -> str:
    """The pieces of all systems side by side: milliseconds and percent of the latency."""
    header = ["ms a sentence (%)", *(f"{row['name']} {row['decoding']}" for row in rows)]
    table = [header]
    profiles = [row["profile"] for row in rows]
    for piece, title in PIECES.items():
        parts = [(found["pieces_ms"][piece], found["latency_ms"]) for found in profiles]
        table.append([title, *(f"{ms:.3f} ({100 * ms / whole:4.1f})" for ms, whole in parts)])
    table.append(["latency", *(f"{found['latency_ms']:.3f} (100.0)" for found in profiles)])
    table.append(["while traced", *(f"{found['traced_ms']:.3f}        " for found in profiles)])
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
    """What a trace says, in nanoseconds."""

    named: Mapping[str, list[tuple[float, float]]]
    """start and end of our own annotations, by name, in the order of time"""
    device: list[Interval]
    """instructions of compiled programs, by their names, in the order of time"""

    def windows(self, name: str) -> list[tuple[float, float]]:
        return self.named.get(name, [])

    def instructions(
        self, window: tuple[float, float], pieces: Mapping[str, str]
    ) -> list[Interval]:
        """Those that start in the window, each with its piece; what has no piece is left out, what nobody
        knows belongs to the search."""
        first = bisect.bisect_left(self.device, window[0], key=lambda event: event[0])
        last = bisect.bisect_left(self.device, window[1], key=lambda event: event[0])
        found = [
            (start, end, pieces.get(name, SEARCH)) for start, end, name in self.device[first:last]
        ]
        return [event for event in found if event[2]]


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
                facts = dict(event.stats)
                if "hlo_op" in facts:
                    started.append((start, end, str(facts["hlo_op"]), facts.get("_p")))
                elif event.name.startswith("end: "):  # an instruction may end on another thread
                    ended[facts.get("_c")] = start
    device = sorted(
        (start, max(end, ended.get(key, end)), name) for start, end, name, key in started
    )
    return Events({name: sorted(windows) for name, windows in named.items()}, device)


def pieces_of(
    window: tuple[float, float], device: Iterable[Interval], host: Iterable[Interval]
) -> dict[str, float]:
    """How much of the window each piece takes, in its unit; the sum is the window's length.

    A moment belongs to the instructions that run, in equal parts where there are several; else to the
    tokenizer or the detokenizer; else, between the first and the last instruction, to nobody in
    particular (BETWEEN); else to the host."""
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
    """where in our code it comes from: "jit(decode)/while/body/decoder/dot_general"; "" where XLA lost it"""
    calls: str | None
    """the computation of a fusion or a call"""
    parameter: int | None
    """which parameter of its computation it is"""


_HEADER = re.compile(r"(?:ENTRY )?%?([\w.\-]+) .*{$")
_LINE = re.compile(r" +(?:ROOT )?%?([\w.\-]+) = .*? ([a-z][a-z0-9\-]*)\((.*)")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_CALLS = {
    "fusion": re.compile(r"calls=%?([\w.\-]+)"),
    "call": re.compile(r"to_apply=%?([\w.\-]+)"),
}


def instruction_pieces(text: str) -> dict[str, str]:
    """The piece of every instruction of a compiled program, by the instruction's name; "" for CONTAINERS.

    Where XLA rewrote an instruction and lost where it comes from, a fusion is what its inside says, a
    matrix product what the reshape after it says, which still has the product's name, and anything else what
    its neighbours say, readers first."""
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
    """Names within a fusion, the last first: its result counts."""
    inner = computations.get(instruction.calls or "", {})
    return [below.op_name for below in reversed(inner.values()) if below.op_name]


def _of_readers(
    name: str,
    readers: Sequence[str],
    instructions: Mapping[str, _Instruction],
    computations: Mapping[str, dict[str, _Instruction]],
) -> list[str]:
    """Names of what reads the instruction first, within fusions too; those of products come first."""
    found = []
    for reader in (instructions[reader] for reader in readers):
        inner = computations.get(reader.calls or "", {})
        place = reader.operands.index(name)
        inputs = [key for key, below in inner.items() if below.parameter == place]
        direct = [below.op_name for below in inner.values() if set(inputs) & set(below.operands)]
        found += direct if inner else [reader.op_name]
    found = [op_name for op_name in found if op_name]
    is_product = "dot" in instructions[name].opcode
    return sorted(found, key=lambda op_name: not (is_product and op_name.endswith("dot_general")))


def _parse(text: str) -> dict[str, dict[str, _Instruction]]:
    """Computations of an HLO module in XLA's text form, and their instructions, by name."""
    computations: dict[str, dict[str, _Instruction]] = {}
    current: dict[str, _Instruction] = {}
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            current = computations.setdefault(header[1], {})
            continue
        found = _LINE.match(line)
        if not found:
            continue
        name, opcode, rest = found.groups()
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

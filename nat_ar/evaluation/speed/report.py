"""The rows of one benchmark as a table for a person; latencies in milliseconds."""

from collections.abc import Sequence

from nat_ar.evaluation.results import Row
from nat_ar.evaluation.speed import other_work

HEADER = (
    *("name", "decoding", "p50 ms", "p95 ms", "p99 ms", "mean ms", "", "× floor", "S1", ""),
    *("Smax", "best batch", "sentences/s"),
)


def render(rows: Sequence[Row]) -> str:
    """Aligned columns, one line a row, and below them what the numbers mean."""
    table = [HEADER, *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for cells in table:
        texts = [cell.ljust(width) for cell, width in zip(cells[:2], widths[:2], strict=True)]
        numbers = [cell.rjust(width) for cell, width in zip(cells[2:], widths[2:], strict=True)]
        lines.append("  ".join([*texts, *numbers]).rstrip())
    return "\n".join([*lines, *_notes(rows[0])])


def _cells(row: Row) -> tuple[str, ...]:
    latency, over, floor = row["latency_ms"], row["over_reference"], row["floor"]
    return (
        row["name"],
        row["decoding"],
        *(f"{latency[key]:.2f}" for key in ("p50", "p95", "p99", "mean")),
        _half(latency["low"], latency["high"]),
        "" if floor is None else f"{floor['ratio']:.1f} {floor['bound'][0]}",
        "" if over is None else f"{over['s1']:.2f}",
        "" if over is None else _half(over["s1_low"], over["s1_high"]),
        "" if over is None else f"{over['smax']:.2f}",
        str(row["throughput_batch"]),
        f"{row['throughput']:.1f}",
    )


def _half(low: float, high: float) -> str:
    return f"±{(high - low) / 2:.2f}"


def _notes(row: Row) -> list[str]:
    """What all rows have in common, read off one of them."""
    notes = [
        f"{row['sentences']} sentences x {row['repetitions']} repetitions, throughput over "
        f"{row['throughput_sentences']}; {row['device']}, {row['threads']} threads; ± half of "
        "the 95 % interval over sentences"
    ]
    over, peaks = row["over_reference"], row["peaks"]
    if over is not None:
        notes.append(
            f"S1, Smax: times faster than {over['name']} {over['decoding']} at batch 1, and each at its own "
            "best batch"
        )
    if peaks is not None:
        matmul = ", ".join(
            f"{rate / 1e9:.0f} GFLOP/s {name}" for name, rate in peaks["matmul"].items()
        )
        bandwidth = [*peaks["bandwidth"].values()][-1] / 1e9
        notes.append(
            f"× floor: mean latency over the least time of its matrix products, at {matmul} (a: arithmetic "
            f"binds) and {bandwidth:.1f} GB/s of memory (m: reading weights binds)"
        )
    if (others := other_work.of_row(row)) is not None:
        notes.append(f"warning: {others} meanwhile; time again on an idle machine")
    return notes

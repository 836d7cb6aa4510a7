"""Writes what there is so far: results.jsonl, table.md, and the picture of the batch curve once it is there."""

from collections.abc import Sequence
from pathlib import Path

from nat_ar.runtime import files
from scripts.benchmark_cpu import report
from scripts.benchmark_cpu.report import Section

TITLE = (
    "# One GPU\n\n`bash scripts/gpu_study.sh`; scripts/gpu_study/__main__.py says what is in it.\n"
)


def write(directory: Path, sections: Sequence[Section]) -> None:
    """Both files, each in one step."""
    report.write(directory / "results.jsonl", sections)
    parts = [TITLE, *(report.markdown(section, {}) for section in sections)]
    files.write_text(directory / "table.md", "\n".join(parts))


def draw(directory: Path, sections: Sequence[Section]) -> list[Path]:
    """throughput.png and .svg, if there is a batch curve."""
    from scripts.benchmark_cpu import plots  # matplotlib, which nothing before the end needs

    return plots.save(sections, directory)

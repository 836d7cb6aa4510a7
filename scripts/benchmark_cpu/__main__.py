"""Measures the CPU tables of docs/speed.md again, with random weights, and compares the ratios with the record.

    bash scripts/benchmark_cpu.sh                          # all, at most 20 minutes on two cores
    bash scripts/benchmark_cpu.sh --only decode start      # some sections
    bash scripts/benchmark_cpu.sh --only kernels           # a section that runs only if it is named
    bash scripts/benchmark_cpu.sh --quick                  # does every section work? its numbers mean nothing

The record is kept by kind of processor and number of threads, a folder of docs/results/speed_cpu each; ratios are
compared with those of the same kind only. The exit status is 1 if one fell below 0.8 of its recorded value or a section
failed. A bar that is missed is shown and does not change the status, nor does a processor without a record. --record
replaces the recorded sections of this kind of processor by those that ran."""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nat_ar.evaluation.speed import machine
from nat_ar.runtime import processor
from scripts.benchmark_cpu import plots, report
from scripts.benchmark_cpu.report import Section
from scripts.benchmark_cpu.section import ALL, NAMES

RECORDED = Path("docs/results/speed_cpu")
QUICK_OUTPUT = Path("runs/benchmark_cpu_quick")
TITLE = (
    "# Speed on a CPU\n\n`bash scripts/benchmark_cpu.sh --record`; README.md says what is in it.\n"
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=ALL, default=NAMES, metavar="SECTION")
    parser.add_argument("--record", action="store_true", help=f"write {RECORDED}")
    parser.add_argument("--quick", action="store_true", help="small sizes, nothing compared")
    parser.add_argument("--threads", type=int, default=2, help="cores to use, pinned")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/benchmark_cpu"),
        help="directory for the results, without --record",
    )
    parser.add_argument(
        "--torch-python", default=sys.executable, help="an interpreter with requirements-bench.txt"
    )
    arguments = parser.parse_args()
    if arguments.record and arguments.quick:
        parser.error("--quick measures nothing that could be recorded")
    machine.pin(arguments.threads)  # child processes inherit it
    condition = f"{processor.kind()}, {arguments.threads} threads"
    recorded = report.folder(RECORDED, condition)
    path = recorded / report.RECORD
    output = recorded if arguments.record else arguments.output
    if arguments.quick:
        output = QUICK_OUTPUT
    record = {} if arguments.quick else report.read_record(path)
    print(condition)
    if not record and not arguments.quick:
        print(f"no record of this kind of processor, nothing is compared; {RECORDED} has others")
    start = time.monotonic()
    measured, failed = [], []
    for name in (name for name in ALL if name in arguments.only):
        section = run_section(name, arguments)
        if section is None:
            failed.append(name)
        else:
            measured.append(section)
            print(report.markdown(section, record), flush=True)
    fallen = report.falls(record, measured)
    if arguments.record:
        report.write_record(path, measured)
        record = report.read_record(path)
    _write(output, measured, record)
    for name in report.not_measured(record, measured):
        print(f"not measured, the recorded value stays: {name}")
    for name in failed:
        print(f"FAILED: {name}, see above")
    for fall in fallen:
        print(f"{'WAS' if arguments.record else 'FELL'} {fall}")
    print(f"{(time.monotonic() - start) / 60:.1f} minutes, written to {output}")
    sys.exit(report.exit_status([] if arguments.record else fallen, failed))


def run_section(name: str, arguments: argparse.Namespace) -> Section | None:
    """A section, measured in a process of its own; None if it failed, after it has printed why."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "results.jsonl"
        command = [sys.executable, "-m", "scripts.benchmark_cpu.section", name]
        command += ["--output", str(path), "--torch-python", arguments.torch_python]
        command += ["--quick"] if arguments.quick else []
        if subprocess.run(command, env=environment).returncode:
            return None
        (section,) = report.read(path)
        return section


def _write(directory: Path, measured: list[Section], record: dict[str, float]) -> None:
    """Writes table, lines and plots; sections that did not run keep the results in the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "results.jsonl"
    sections = report.merged(report.read(path), measured, ALL)
    report.write(path, sections)
    parts = [TITLE, *(report.markdown(section, record) for section in sections)]
    (directory / "table.md").write_text("\n".join(parts), "utf-8")
    plots.save(sections, directory)


if __name__ == "__main__":
    main()

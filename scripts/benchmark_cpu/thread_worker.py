"""Translates on so many cores: python -m scripts.benchmark_cpu.thread_worker 1 --systems greedy ctc --rows 1 32.

Reads a JSON object a line, {"system": "greedy", "rows": 1, "calls": 2}, translates so many times, and answers with the
seconds of the last translation."""

import argparse
import json
import sys

from nat_ar.evaluation.speed import clock, machine
from scripts.benchmark_cpu import models, timing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("threads", type=int, help="cores to use, of those allowed")
    parser.add_argument(
        "--systems", nargs="+", required=True, help="names of those to translate by"
    )
    parser.add_argument("--rows", nargs="+", type=int, default=[1], help="sentences of a batch")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    arguments = parser.parse_args()
    machine.pin(arguments.threads)
    scale = models.QUICK if arguments.quick else models.FULL
    systems = models.systems(scale.transformer)
    wanted = [
        (systems[name], rows, scale.positions)
        for name in arguments.systems
        for rows in arguments.rows
    ]
    programs = models.Workshop(scale).programs(wanted)
    calls = {(program.system.name, program.rows): timing.timed(program) for program in programs}
    for call in calls.values():
        call()
    print(json.dumps({"threads": arguments.threads}), flush=True)
    with clock.no_compilation():
        for line in sys.stdin:
            question = json.loads(line)
            call = calls[question["system"], question["rows"]]
            seconds = [call() for _ in range(question["calls"])]
            print(json.dumps({"seconds": seconds[-1]}), flush=True)


if __name__ == "__main__":
    main()

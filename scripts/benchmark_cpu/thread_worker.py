"""Translates at batch 1 on so many cores: python -m scripts.benchmark_cpu.thread_worker 1 --systems greedy ctc.

Reads names of systems, a JSON string a line, and answers each with the seconds of one translation."""

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
    parser.add_argument("--quick", action="store_true", help="small sizes")
    arguments = parser.parse_args()
    machine.pin(arguments.threads)
    scale = models.QUICK if arguments.quick else models.FULL
    systems = models.systems(scale.transformer)
    wanted = [(systems[name], 1, scale.positions) for name in arguments.systems]
    programs = models.Workshop(scale).programs(wanted)
    calls = {program.system.name: timing.timed(program) for program in programs}
    for call in calls.values():
        call()
    print(json.dumps({"threads": arguments.threads}), flush=True)
    with clock.no_compilation():
        for line in sys.stdin:
            print(json.dumps({"seconds": calls[json.loads(line)]()}), flush=True)


if __name__ == "__main__":
    main()

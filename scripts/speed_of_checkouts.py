"""How much faster is a change? Two checkouts in turns, on random weights.

    git worktree add ../before HEAD~1
    python -m scripts.speed_of_checkouts ../before decode --size toy base --systems greedy beam_4 length_nat
    python -m scripts.speed_of_checkouts ../before train configs/multi30k_en_de/study.py --only ar ctc_kd --length 20

`decode` times whole decodes at batch 1, as `bash scripts/benchmark_cpu.sh` does, from token ids to token ids: `base` is
that benchmark's model, `toy` the toy language's size. Systems are named as in scripts/benchmark_cpu/models.py, "_int8"
behind the name for weights of 8 bits. `train` times steps of a study's methods.

Each checkout works in a process of its own, with its own nat_ar and its own scripts; they take turns call by call. A
line says the median time of both, and the median of this checkout's time over the other's with its 95 % interval
over rounds: below 1 this checkout is faster. Ratios of a busy machine mean little: have nothing else running. What the
interval does not hold is what differs between two processes of the same code (where their memory lies): 1.11 [1.07,
1.32] was seen, greedy search at toy size on Zen 1. Run it again before you believe a tenth."""

import argparse
import datetime
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nat_ar.evaluation.speed import intervals, machine
from nat_ar.runtime import processor
from scripts.benchmark_cpu import report, timing
from scripts.benchmark_cpu.report import Row
from scripts.benchmark_cpu.timing import Worker

HERE = Path(__file__).resolve().parent.parent
PAUSE = 0.002
"""seconds before each call: threads of the other process that wait for more work have then gone to sleep"""
WORKER = HERE / "scripts" / "benchmark_cpu" / "checkout_worker.py"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("other", type=Path, help="the other checkout")
    ways = parser.add_subparsers(dest="way", required=True)
    decode = ways.add_parser("decode", help="decodes of models of random weights")
    decode.add_argument("--size", nargs="+", choices=("base", "toy"), default=["base"])
    decode.add_argument("--systems", nargs="+", default=["greedy", "beam_4", "length_nat"])
    train = ways.add_parser("train", help="train steps of the methods of a study")
    train.add_argument("config", help="file of a study, which both checkouts have")
    train.add_argument("--only", nargs="+", default=[], help="entries; default: the teacher")
    train.add_argument("--batch-tokens", type=int, default=2048, help="target tokens of a batch")
    train.add_argument("--length", type=int, default=32, help="tokens of a sentence, EOS counted")
    train.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: their own")
    for way in (decode, train):
        way.add_argument("--rounds", type=int, default=25, help="of all calls; default: 25")
    arguments = parser.parse_args(words)
    if not (arguments.other / "nat_ar").is_dir():
        parser.error(f"expected a checkout of nat_ar, got {arguments.other}")
    asked = {key: value for key, value in vars(arguments).items() if key != "other"}
    print(table(asked, arguments.other.resolve(), rounds=arguments.rounds), end="")


def table(asked: dict[str, Any], other: Path, *, rounds: int) -> str:
    with start(HERE, asked) as here, start(other, asked) as there:
        names: list[str] = here.greeting
        calls = [
            lambda worker=worker, name=name: worker.ask(name)
            for name in names
            for worker in (here, there)
        ]
        seconds = timing.in_rounds("turns", calls, rounds, pause=PAUSE)
    rows: list[Row] = [
        {
            "what": name,
            "ms, here": intervals.median(1e3 * ours),
            "ms, the other": intervals.median(1e3 * theirs),
            "here / the other": intervals.median_ratio(ours, theirs),
        }
        for name, ours, theirs in zip(names, seconds[0::2], seconds[1::2], strict=True)
    ]
    return (
        f"{report.table(rows)}\n{processor.kind()}, {machine.num_threads()} threads, "
        f"{datetime.date.today()}; {rounds} rounds, medians [95 %].\n"
    )


def start(checkout: Path, asked: dict[str, Any]) -> Worker:
    """A process with the modules of a checkout."""
    command = [sys.executable, "-c", WORKER.read_text("utf-8"), json.dumps(asked)]
    return Worker(command, dict(os.environ), directory=checkout)


if __name__ == "__main__":
    main()

"""Memory and time of a train step of every method of a study, as a Markdown table.

    python -m scripts.training_cost configs/debian_en_de/family.py --only ar length ctc
    python -m scripts.training_cost configs/debian_en_de/family.py --only ar ctc --dtype bfloat16

All on one random batch of the same number of target tokens; the first row is the study's teacher."""

import argparse
import dataclasses
import datetime
import sys
from typing import Any

import jax
import tqdm

from nat_ar.evaluation.speed import machine, training_cost
from nat_ar.experiment.study import load_study, only
from nat_ar.methods.base import Method, VocabularySizes
from nat_ar.runtime.malloc import keep_freed_memory

DTYPES = ("float32", "bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="file of a study")
    parser.add_argument("--only", nargs="+", default=[], help="entries to measure; default: all")
    parser.add_argument("--batch-tokens", type=int, default=2048, help="target tokens of a batch")
    parser.add_argument("--length", type=int, default=32, help="tokens of a sentence, EOS counted")
    parser.add_argument("--dtype", choices=DTYPES, help="of all Transformers; default: their own")
    parser.add_argument("--rounds", type=int, default=10, help="timed steps of each method")
    arguments = parser.parse_args()
    keep_freed_memory()
    config = load_study(arguments.config)
    if arguments.only:
        config = only(config, arguments.only)
    methods, seen = {}, set()
    for entry in (config.teacher, *config.entries):
        if entry.method not in seen:  # raw and distilled are one method
            methods[entry.name] = in_dtype(entry.method, arguments.dtype)
            seen.add(entry.method)
    words = config.data.vocabulary
    with tqdm.tqdm(
        total=arguments.rounds + 1, unit="round", disable=not sys.stderr.isatty()
    ) as bar:
        costs = training_cost.measure(
            methods,
            VocabularySizes(words.size, words.size, words.joint),
            batch_tokens=arguments.batch_tokens,
            length=arguments.length,
            rounds=arguments.rounds,
            on_round=bar.update,
        )
    print(training_cost.markdown(costs))
    rows = arguments.batch_tokens // arguments.length
    print(
        f"{rows} sentences of {arguments.length} tokens a batch, vocabulary {words.size:,}, "
        f"{machine.device_name()}, {machine.num_threads()} threads, jax {jax.__version__}, "
        f"{datetime.date.today()}; {arguments.rounds} rounds, all methods in turn in each."
    )


def in_dtype(method: Method, dtype: str | None) -> Method:
    """The same method with its Transformer in another type; LSTMs have none."""
    transformer = getattr(method, "transformer", None)
    if dtype is None or transformer is None:
        return method
    changes: dict[str, Any] = {"transformer": dataclasses.replace(transformer, dtype=dtype)}
    return dataclasses.replace(method, **changes)


if __name__ == "__main__":
    main()

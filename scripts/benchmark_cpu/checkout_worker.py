"""What scripts/speed_of_checkouts.py runs in each checkout, with that checkout's modules: times what it is asked for.

The text of this file goes to `python -c`, so that `nat_ar` and `scripts` are those of the working directory. It asks
for little of them, since older checkouts should have it. Reads the names of calls, a JSON value a line, and answers
with seconds."""

import dataclasses
import functools
import json
import sys
import time
from collections.abc import Callable
from typing import Any

SIZES: dict[str, dict[str, Any]] = {
    "base": {},
    "toy": {"d_model": 128, "d_hidden": 512, "num_encoder_layers": 2, "num_decoder_layers": 2},
}
TOY_WORDS = 1000


def decodes(size: str, names: list[str]) -> dict[str, Callable[[], Any]]:
    from scripts.benchmark_cpu import models

    transformer = dataclasses.replace(models.FULL.transformer, **SIZES[size])
    words = TOY_WORDS if size == "toy" else models.FULL.vocabulary
    scale = dataclasses.replace(models.FULL, transformer=transformer, vocabulary=words)
    known = models.systems(transformer)
    wanted = [(known[name], 1, scale.positions) for name in names]
    programs = models.Workshop(scale).programs(wanted)
    return {f"{size} {name}": call for name, call in zip(names, programs, strict=True)}


def steps(
    config: str, names: list[str], dtype: str | None, tokens: int, length: int
) -> dict[str, Callable[[], Any]]:
    from nat_ar.evaluation.speed import training_cost
    from nat_ar.experiment.study import load_study
    from nat_ar.methods.base import VocabularySizes
    from scripts.training_cost import in_dtype

    study = load_study(config)
    entries = {entry.name: entry for entry in (study.teacher, *study.entries)}
    words = study.data.vocabulary
    sizes = VocabularySizes(words.size, words.size, words.joint)
    batch = training_cost.random_batch(tokens // length, length, sizes)
    found: dict[str, Callable[[], Any]] = {}
    for name in names or [study.teacher.name]:
        method = in_dtype(entries[name].method, dtype)
        found[name] = functools.partial(training_cost.TrainStep(method, sizes, batch), batch)
    return found


def main() -> None:
    asked = json.loads(sys.argv[1])
    calls: dict[str, Callable[[], Any]] = {}
    if asked["way"] == "decode":
        for size in asked["size"]:
            calls |= decodes(size, asked["systems"])
    else:
        given = (asked[key] for key in ("config", "only", "dtype", "batch_tokens", "length"))
        calls = steps(*given)
    for call in calls.values():
        call()
    print(json.dumps([*calls]), flush=True)
    for line in sys.stdin:
        call = calls[json.loads(line)]
        start = time.perf_counter()
        call()
        print(json.dumps(time.perf_counter() - start), flush=True)


main()

"""What a training says of itself, in lines that a terminal and a file show alike."""

import math

from nat_ar.data.batching import BatchPlan
from nat_ar.runtime import durations
from nat_ar.training.step import TrainStep
from nat_ar.types import Batch


class Compilations:
    """Which shapes a train step meets for the first time in this process, and is therefore compiled for. A run has
    several train steps where its encoder is frozen for a while, or its method goes through stages."""

    def __init__(self, plan: BatchPlan) -> None:
        self.num_buckets = len(plan.buckets)
        self.known: dict[TrainStep, set[tuple[int, ...]]] = {}

    def announced(self, train_step: TrainStep, batch: Batch) -> str | None:
        """What to say before a step on this batch; None where its program is there."""
        known, shape = self.known.setdefault(train_step, set()), batch.source.shape
        if shape in known:
            return None
        known.add(shape)
        which = f"{len(known)} of {max(self.num_buckets, len(known))}"
        stage = f", train step {len(self.known)}" if len(self.known) > 1 else ""
        return f"compiling bucket {shape[1]} ({which}){stage}"


def of_step(step: int, values: dict[str, float], *, seconds_left: float) -> str:
    """The line of a row of metrics.jsonl. A mean is missing where all its steps were skipped."""
    known = [
        f"{title} {values[name]:{form}}"
        for title, name, form in (
            ("loss", "objective", ".3f"),
            ("learning rate", "learning_rate", ".2e"),
            ("gradient norm", "gradient_norm", ".2f"),
        )
        if name in values
    ]
    speed = f"{values['target_tokens_per_second']:,.0f} target tokens/s"
    left = f"{durations.text(seconds_left)} left"
    return f"step {step:,}: {', '.join([*known, speed, left])}"


def of_validation(step: int, values: dict[str, float], best: str, best_step: int) -> str:
    """BLEU and, where the method has them, loss and perplexity."""
    more = [
        f"{name} {values[name]:{form}}"
        for name, form in (("loss", ".3f"), ("perplexity", ".2f"))
        if name in values
    ]
    bleu = f"validation BLEU {values['score']:.2f} (best {best} at step {best_step:,})"
    return f"step {step:,}: {', '.join([bleu, *more])}"


def seconds_left(
    step: int,
    max_steps: int,
    *,
    seconds: float,
    every_steps: int,
    validations: list[float],
) -> float:
    """If the steps to come take as long as those before, which took `seconds`, and so do the validations, which took
    as many seconds as the list says."""
    steps = (max_steps - step) * seconds / step
    if not validations:
        return steps
    to_come = math.ceil(max_steps / every_steps) - step // every_steps
    return steps + to_come * sum(validations) / len(validations)

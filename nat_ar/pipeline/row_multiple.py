"""Of what the rows of a run's batches are a multiple: of what the config says, else of devices times accumulation
where the run was begun. The batches stay the same on whatever devices it goes on: with other rows, an epoch would
show some pairs twice and others never."""

from nat_ar.config_json import ConfigError
from nat_ar.data.loader import Loader
from nat_ar.training.config import TrainingConfig
from nat_ar.training.loop import Progress

DEVICES = (1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64)
"""Numbers on which a run may have been begun by a version that did not note it."""


def of_new_run(training: TrainingConfig, num_devices: int) -> int:
    """Raises ConfigError where devices times accumulation do not divide what the config says."""
    said = training.batching.row_multiple
    if said is None:
        return num_devices * training.accumulation
    _require_equal_shares(said, training, num_devices, "training.batching.row_multiple")
    return said


def of_resumed_run(
    batches: Loader, progress: Progress, at: int, training: TrainingConfig, num_devices: int
) -> int | None:
    """Of a run that goes on after step `at`; None where a version that did not note it wrote `progress`, and no number
    of devices explains it. `batches` have any rows.

    Raises ConfigError where devices times accumulation do not divide it."""
    multiple = progress.row_multiple
    if multiple is None:
        # Several explain it where they have made the same batches so far, or where an epoch has just ended: then one
        # that these devices can share.
        share = num_devices * training.accumulation
        tried = dict.fromkeys(number * training.accumulation for number in (num_devices, *DEVICES))
        by_share = sorted(tried, key=lambda m: m % share > 0)  # stable: otherwise in their order
        multiple = next(
            (m for m in by_share if _explains(batches.with_row_multiple(m), progress, at)), None
        )
    if multiple is not None:
        _require_equal_shares(multiple, training, num_devices, "what the run was begun with")
    return multiple


def _require_equal_shares(
    multiple: int, training: TrainingConfig, num_devices: int, origin: str
) -> None:
    accumulation = training.accumulation
    if multiple % (num_devices * accumulation):
        fitting = [n for n in range(1, num_devices) if multiple % (n * accumulation) == 0]
        advice = f"train with --mesh data={max(fitting)}, or begin" if fitting else "begin"
        raise ConfigError(
            f"devices times training.accumulation must divide the rows of every batch, a multiple of {multiple} "
            f"({origin}): got {num_devices} devices and accumulation {accumulation}; {advice} another run with "
            f"training.batching.row_multiple {num_devices * accumulation}"
        )


def _explains(batches: Loader, progress: Progress, at: int) -> bool:
    """Whether a run of these batches is at this place of its data after `at` steps, and has seen so many tokens."""
    steps = tokens = 0
    for epoch in range(progress.epoch + 1):
        _, pairs, plan = batches.epoch(epoch)
        taken = plan[: progress.position] if epoch == progress.epoch else plan
        steps += len(taken)
        if steps > at:
            return False
        tokens += sum(map(pairs.num_target_tokens, taken))
    return steps == at and tokens == progress.target_tokens

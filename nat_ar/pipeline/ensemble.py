"""Several trained autoregressive runs as one run, which every verb takes as it takes theirs.

It has copies of their parameters: what is trained or deleted later in their directories changes nothing of it. Its
training is theirs: the sums of steps, seconds and target tokens."""

import contextlib
import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flax import nnx

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.experiment.config import ExperimentConfig
from nat_ar.experiment.run import Run, TrainedModel
from nat_ar.methods.ensemble import Ensemble
from nat_ar.runtime import files, out_of_memory
from nat_ar.training.checkpoint import Checkpoints
from nat_ar.training.loop import Progress
from nat_ar.translation.model import vocabulary_sizes


def ensemble(
    runs: Sequence[Run | str | Path],
    run: Run | str | Path,
    *,
    name: str | None = None,
    checkpoint: str = "best",
) -> Run:
    """Makes the run, or finds it made of the same models, and returns it.

    name: in tables, by default that of the directory. checkpoint: of every member. Data and default decoding are those
    of the first. Raises ConfigError unless all are autoregressive and have one vocabulary, and where the directory is
    another run."""
    to = Run.of(run)
    members = [Run.of(one) for one in runs]
    first = members[0].config()
    decoding: Any = first.method.decoding
    method = Ensemble(tuple(member.config().method for member in members), decoding=decoding)
    _check_vocabularies(members)
    data = dataclasses.replace(first.data, directory=str(members[0].find(first.data.directory)))
    config = ExperimentConfig(name or to.directory.resolve().name, data, method, first.training)
    with out_of_memory.explained("take fewer members"):
        loaded = [member.load(checkpoint) for member in members]
        facts = _facts(members, loaded)
        if to.config_path.exists():
            _check_same(to, config, facts)
            return to
        files.check_new_directory(to.directory, but="no config.json")
        try:
            to.begin(config, members[0].vocabulary(), facts)
            _save(to, method, members, loaded)
        except BaseException:
            shutil.rmtree(to.directory, ignore_errors=True)
            raise
    return to


def _check_vocabularies(members: Sequence[Run]) -> None:
    first, *others = ((one.directory, one.facts()["vocabulary_hash"][:12]) for one in members)
    for directory, digest in others:
        if digest != first[1]:
            raise ConfigError(
                f"{directory} has another vocabulary ({digest}) than {first[0]} ({first[1]}): an ensemble takes the "
                "mean of the probabilities of one and the same words; train on data prepared with one vocabulary"
            )


def _facts(members: Sequence[Run], loaded: Sequence[TrainedModel]) -> dict[str, Any]:
    """What the run is made of, and trained on where all were."""
    known = [member.facts() for member in members]
    is_raw = all(facts["training_data"] == "raw" for facts in known)
    return {
        **{key: known[0][key] for key in ("format", "data_hash", "vocabulary_hash")},
        "training_data": "raw" if is_raw else "distilled",
        "members": [
            {"run": str(member.directory), "name": one.config.name, **one.fingerprint}
            for member, one in zip(members, loaded, strict=True)
        ],
    }


def _check_same(to: Run, config: ExperimentConfig, facts: dict[str, Any]) -> None:
    known = to.facts()
    before = [one["parameters_hash"] for one in known.get("members", ())]
    now = [one["parameters_hash"] for one in facts["members"]]
    if before != now or config_json.to_json(to.config().method) != config_json.to_json(
        config.method
    ):
        raise ConfigError(
            f"{to.directory} is another run, of {len(before)} members: name another --run, or remove it"
        )


def _save(
    to: Run, method: Ensemble, members: Sequence[Run], loaded: Sequence[TrainedModel]
) -> None:
    sizes = vocabulary_sizes(loaded[0].vocabulary)
    model = nnx.eval_shape(lambda: method.build(sizes, rngs=nnx.Rngs(0)))
    for member, one in zip(model.members, loaded, strict=True):
        nnx.update(member, one.model.params)
    at = sum(one.step for one in loaded)
    pasts = [member.progress(one.step) for member, one in zip(members, loaded, strict=True)]
    progress = Progress(
        seconds=sum(past["seconds"] for past in pasts),
        compile_seconds=sum(past.get("compile_seconds", 0.0) for past in pasts),
        target_tokens=sum(past["target_tokens"] for past in pasts),
        best_step=at,
        is_finished=True,
    )
    with contextlib.closing(Checkpoints(to.checkpoints_directory)) as checkpoints:
        checkpoints.save_translating(at, nnx.state(model), dataclasses.asdict(progress), score=None)

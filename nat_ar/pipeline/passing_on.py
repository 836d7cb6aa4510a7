"""A run without what only further training needs, its optimizer's state first of all: a third of the size, to pass on.

Every verb but `train` takes it as it takes the run itself, and `study --teacher-from` has students of it."""

import contextlib
import dataclasses
from pathlib import Path

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.data.arrays import PreparedData
from nat_ar.experiment.config import ExperimentConfig
from nat_ar.experiment.run import Run, TrainedModel, described
from nat_ar.experiment.study import StudyConfig
from nat_ar.runtime import files
from nat_ar.training.checkpoint import Checkpoints

KEPT_FACTS = (
    *("format", "data_hash", "vocabulary_hash", "training_data"),
    *("teacher", "start_from", "members"),
)
SAYS_WHERE = "commit_success.txt"
"""files of Orbax's that say where a checkpoint was written, and that nobody reads: a place of one machine"""
PASSED_ON = "passed_on_from"
"""the fact that says which model of which run it is"""


def pass_on(
    run: Run,
    output: Path,
    *,
    checkpoint: str = "best",
    config: ExperimentConfig | None = None,
) -> TrainedModel:
    """Fills the new directory `output`, completely or not at all, with a run of one checkpoint, or of a mean, and
    returns its model.

    config: what the new run says of itself instead of what the old one does: where its data lie here. Raises ValueError
    where the directory holds files."""
    with files.new_directory(output) as partial:
        trained = run.load(checkpoint)
        facts = run.facts()
        known = {key: facts[key] for key in KEPT_FACTS if key in facts}
        source = {"run": str(run.directory), **trained.fingerprint}
        to = Run(partial)
        to.begin(config or trained.config, trained.vocabulary, {**known, PASSED_ON: source})
        progress = {**run.progress(trained.step), "is_finished": True}
        score = None if trained.averaged_steps else progress["score"]
        with contextlib.closing(Checkpoints(to.checkpoints_directory)) as checkpoints:
            checkpoints.save_translating(trained.step, trained.model.params, progress, score=score)
        for path in partial.rglob(SAYS_WHERE):
            path.unlink()
    return trained


def take(given: Run, to: Run, config: ExperimentConfig) -> None:
    """Makes a run of a study of one that was trained elsewhere, or finds it made of the same model.

    config: what the study would have trained. Raises ConfigError where its data have another vocabulary, and where `to`
    is another run."""
    data = PreparedData.load(config.data.directory)
    if data.vocabulary.hash != given.vocabulary().hash:
        raise ConfigError(
            f"{given.directory} cannot teach on {data.directory}: expected its vocabulary, "
            f"{given.vocabulary().hash[:12]}, got {data.vocabulary.hash[:12]}; prepare the same corpus with the same "
            "data.vocabulary"
        )
    if not to.config_path.exists():
        own = dataclasses.replace(given.config(), name=config.name, data=config.data)
        pass_on(given, to.directory, config=own)
        return
    source = to.facts().get(PASSED_ON)
    if source is None or source["parameters_hash"] != given.parameters_hash():
        was = "was trained here" if source is None else f"is {described(source)} of {source['run']}"
        raise ConfigError(
            f"{to.directory} is not the model of {given.directory}: it {was}; give another --directory, or the "
            "--teacher-from that it was made of"
        )


def require_teacher(given: Run, study: StudyConfig) -> None:
    """Raises ConfigError unless the run has the method of the study's teacher, whatever the type of its activations."""
    if study.seed_teacher:
        raise ConfigError(
            f"seed_teacher asks for a teacher of each seed, got one, {given.directory}: leave one of the two out"
        )
    old, new = (config_json.to_json(one) for one in (given.config().method, study.teacher.method))
    changed = [
        text for text in config_json.differences(old, new) if "dtype:" not in text.split(" ")[0]
    ]
    if changed:
        raise ConfigError(
            f"{given.directory} cannot be the study's teacher: {'; '.join(changed)} (its method -> the study's); "
            "give the study the same method"
        )

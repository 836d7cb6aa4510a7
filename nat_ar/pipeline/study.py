"""Runs the stages of a study: teacher, distilled data, students, baselines -> one table and one picture.

Every stage leaves a complete result or none, and is skipped if its result exists and its inputs have not changed.
A study may therefore be killed at any moment and started again by the same command, and ends with the same table.
It writes:

    DIRECTORY/data, DIRECTORY/distilled     prepared directories, raw and by the teacher
    DIRECTORY/runs/NAME                     a run for each entry, or NAME_seed1, ... for each of its seeds
    DIRECTORY/table.{txt,md,csv,tex}, picture.{png,svg}, examples.md

Several processes may be at one study, one a GPU or a core: each trains what no other is at, and waits for what it needs
of the others. Processes that compute together (runtime.distributed) instead share every training, distillation and
evaluation; the first prepares, times in a process of its own while the others wait, and writes."""

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nat_ar import config_json
from nat_ar.data import evaluation_set, prepare
from nat_ar.data.arrays import PreparedData
from nat_ar.evaluation import results
from nat_ar.evaluation.speed import machine
from nat_ar.experiment import provenance, seeds
from nat_ar.experiment.run import Run
from nat_ar.experiment.study import PlannedRun, StudyConfig, load_study
from nat_ar.pipeline import benchmark, compare, distill, evaluate, passing_on, report, train
from nat_ar.pipeline.benchmark import System
from nat_ar.pipeline.compare import Comparison
from nat_ar.runtime import bars, child_process, distributed, files, parts
from nat_ar.translation import decodings
from nat_ar.translation.decodings import Choice


class _Stages:
    """Reports on stderr each stage and its duration."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    def __call__(self, title: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        now = time.perf_counter()
        spent, total = now - start, now - self.start
        bars.say(f"[{total / 60:5.1f} min] {title}: {spent:.0f} s")
        return result


def study(
    config: StudyConfig | str | Path,
    *,
    command: str | None = None,
    is_timed: bool = True,
    publish: str | Path | None = None,
    picture: str | Path | None = None,
    width: float | None = None,
    has_title: bool = True,
    mesh: str | None = None,
    teacher_from: Run | str | Path | None = None,
) -> Comparison:
    """Runs what is missing, writes the reports, prints the table and returns it.

    `config`: a study or its Python file; `command`: what the reports give as the command that made them; `is_timed`:
    False leaves out the benchmark, until it is called without; `publish`: a further directory for the reports, and for
    all of the runs but their weights; `picture`: a further file for the picture, .png, .svg or .pdf; `width` of the
    pictures, in inches; `mesh`: of every training, as of `train`; `teacher_from`: a run of the teacher's method, which
    is copied instead of trained. Processes that compute together all call it alike."""
    if not isinstance(config, StudyConfig):
        command = command or f"python -m nat_ar study {config}"
        config = load_study(config)
    command = command or f"nat_ar.study({config.name!r})"
    given = None if teacher_from is None else Run.of(teacher_from)
    if given is not None:
        passing_on.require_teacher(given, config)
    root = Path(config.directory)
    plan = config.plan()  # an impossible experiment must not make the directory
    own = {"study": config_json.to_json(config), "is_timed": is_timed}
    distributed.require_same(own, "all processes run one study")
    distributed.from_first(lambda: files.make_directory(root))
    stage = _Stages()
    trained = functools.partial(_train, stage, mesh=mesh)
    with _alone(root):
        _prepare(config, plan, stage)
        _teach(config, plan, stage, trained, given)
    students = [planned for planned in plan if planned.entry.name != config.teacher.name]
    _train_all(students, trained)
    _evaluate_all(config, plan, stage)
    with _alone(root):
        comparison = _compare(config, plan, stage, is_timed=is_timed)

        def write() -> None:
            drawn: dict[str, Any] = {"width": width, "has_title": has_title}
            for directory in (root, *([] if publish is None else [Path(publish)])):
                report.write(comparison, directory, config, command, **drawn)
            if publish is not None:
                report.copy_systems(config, Path(publish) / "systems")
            if picture is not None:
                comparison.picture(picture, title=config.name, **drawn)
            print(comparison.render(columns=config.columns), end="")

        distributed.from_first(write)
        return comparison


def _alone(root: Path) -> contextlib.AbstractContextManager[None]:
    """What one process at a time does for all that are at the study."""
    waiting = f"{root}: waiting for another process, which is at what all of them need"
    return distributed.held_by_first(parts.in_turn(root / files.LOCK_NAME, waiting))


def _prepare(config: StudyConfig, plan: Sequence[PlannedRun], stage: _Stages) -> None:
    data = plan[0].experiment.data

    def prepared() -> None:
        prepare.prepare(data)

    stage("prepare", lambda: distributed.from_first(prepared))
    for name in config.tests:
        PreparedData.load(data.directory).split(
            name
        )  # an unknown split is an error before any training


def _teach(
    config: StudyConfig,
    plan: Sequence[PlannedRun],
    stage: _Stages,
    trained: Callable[[PlannedRun], None],
    given: Run | None,
) -> None:
    """The teachers, trained or taken from a run, and their translations where these are wanted."""
    wanted = {planned.experiment.train_on for planned in plan}
    for planned in plan:
        if planned.entry.name != config.teacher.name:
            continue
        if given is None:
            trained(planned)
        else:
            to = Run(planned.directory)
            taking = functools.partial(passing_on.take, given, to, planned.experiment)
            title = f"take {planned.experiment.name} from {given.directory}"
            stage(title, functools.partial(distributed.from_first, taking))
        distilled = config.distilled(planned.seed)
        if str(distilled) in wanted:
            distilling = functools.partial(
                distill.distill,
                planned.directory,
                distilled,
                decoding=config.distillation,
                word_distributions=config.word_distributions,
            )
            stage(seeds.named("distill", planned.seed), distilling)


def _train(stage: _Stages, planned: PlannedRun, *, mesh: str | None) -> None:
    training = functools.partial(train.train, planned.experiment, planned.directory, mesh=mesh)
    stage(f"train {planned.experiment.name}", training)


def _train_all(plan: Sequence[PlannedRun], trained: Callable[[PlannedRun], None]) -> None:
    """Each run in the order of the plan, but for those that other processes are at, and what starts from these: they
    come last, when the others are through with them. Processes that compute together leave nothing for later."""
    later: list[PlannedRun] = []
    for planned in plan:
        if planned.experiment.start_from in {str(one.directory) for one in later}:
            later.append(planned)
            continue
        try:
            trained(planned)
        except files.InUseError:
            if distributed.count() > 1:
                raise
            bars.say(f"nat-ar: {planned.experiment.name} is trained by another process")
            later.append(planned)
    while later:
        waiting = f"waiting for {later[0].experiment.name}, which another process trains"
        if later[0].directory.exists():
            with parts.in_turn(later[0].directory / files.LOCK_NAME, waiting):
                pass
        with contextlib.suppress(files.InUseError):  # a third process may have come first
            trained(later[0])
            del later[0]


def _evaluate_all(config: StudyConfig, plan: Sequence[PlannedRun], stage: _Stages) -> None:
    for planned in plan:
        name = planned.experiment.name
        waiting = f"waiting for another process, which evaluates {name}"
        turn = parts.in_turn(planned.directory / files.LOCK_NAME, waiting)
        with distributed.held_by_first(turn):
            for split in config.tests:
                evaluating = functools.partial(_evaluate_missing, planned, split)
                stage(f"evaluate {name} on {split}", evaluating)


def _compare(
    config: StudyConfig, plan: Sequence[PlannedRun], stage: _Stages, *, is_timed: bool
) -> Comparison:
    if is_timed:
        timed = functools.partial(_benchmark_missing, _timed(config, plan), config)
        stage("benchmark", lambda: distributed.from_first(timed))
    return compare.compare(
        [planned.directory for planned in plan],
        teacher=plan[0].experiment.name,
        split=config.tests[0],
    )


def _timed(config: StudyConfig, plan: Sequence[PlannedRun]) -> list[System]:
    """Of each entry one run: the time that a decoding takes depends on the seed by the lengths of translations only."""
    return [
        System(Run(planned.directory), text)
        for planned in plan
        if planned.seed == config.seeds_of(planned.entry)[0]
        for text in planned.entry.decodings or (None,)
    ]


def _evaluate_missing(planned: PlannedRun, split: str) -> None:
    """Evaluates the decodings that have no row of this config, checkpoint and test text yet."""
    entry, run = planned.entry, Run(planned.directory)
    data = PreparedData.load(planned.experiment.data.directory)
    expected = {
        "kind": "quality",
        "split": split,
        "test_hash": evaluation_set.of_prepared(data, split).hash,
    }
    for text in entry.decodings or (None,):
        chosen = decodings.choose(entry.method, text)
        asked = functools.partial(_has_quality, run, expected, chosen)
        if not distributed.from_first(asked):
            evaluate.evaluate(run, decoding=text, split=split)


def _has_quality(run: Run, expected: dict[str, Any], chosen: Choice) -> bool:
    version = provenance.version(run, chosen.decoding)
    return _has_row(run, {**expected, "decoding": chosen.text}, version)


def _benchmark_missing(systems: Sequence[System], config: StudyConfig) -> None:
    """Times all systems together, in a process that has done nothing else, unless every one has a row of
    this checkpoint and this machine."""
    resolved = [system.resolved() for system in systems]
    split = config.tests[0]
    for system in resolved:
        expected = {
            "kind": "speed",
            "split": split,
            "decoding": system.decoding,
            "device": machine.device_name(),
            "threads": machine.num_threads(),
        }
        chosen = decodings.choose(system.run.config().method, system.decoding)
        version = provenance.version(system.run, chosen.decoding)
        if not _has_row(system.run, expected, version):
            child_process.run(benchmark.command(resolved, config.speed, split))
            return


def _has_row(run: Run, expected: dict[str, Any], version: dict[str, Any]) -> bool:
    if not (run.directory / results.FILE_NAME).exists():
        return False
    rows = results.read(run.directory)
    return any(
        results.is_same_model(row, version)
        and all(row.get(key) == value for key, value in expected.items())
        for row in rows
    )

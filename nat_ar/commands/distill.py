"""distill RUN: the teacher's translations of the training source, as a prepared directory for students.

The same command after an interruption continues at the first missing shard; with --part I/N, the processes of a job
array share them. nat_ar/pipeline/distill.py describes the result."""

import dataclasses

from nat_ar.config_json import ConfigError
from nat_ar.evaluation import data_card
from nat_ar.evaluation.speed import machine
from nat_ar.experiment.run import Run
from nat_ar.pipeline.distill import distill
from nat_ar.pipeline.shards import Choose, Spoilt
from nat_ar.runtime import bars, distributed
from nat_ar.translation.translator import BATCH_TOKENS


@dataclasses.dataclass(frozen=True)
class Distill:
    """Translate the training data with a trained model, for students to learn from."""

    run_directory: str
    """run of the teacher"""
    directory: str | None = None
    """prepared directory to write; default: RUN/distilled"""
    decoding: str | None = None
    """such as "Beam(size=4)", "Greedy()" or "Sampling(temperature=0.8)"; default: the run's own"""
    choose: Choose = "first"
    """first: the highest-ranked translation; best_bleu: the one in the beam with the highest sentence BLEU"""
    checkpoint: str = "best"
    """best (by validation BLEU), latest, a step, or average:5, the mean of the best five"""
    shard_sentences: int = 4096
    """sentences per shard: the most that have to be translated again after an interruption"""
    max_sentences: int | None = None
    """use only this many training pairs, the first ones; default: all"""
    batch_tokens: int = BATCH_TOKENS
    """padded source tokens per batch of at most 64 sentences; fewer take less memory and change no translation"""
    word_distributions: int | None = None
    """keep so many of the teacher's most probable words at each place of its translations, with their probabilities,
    for training.word_distributions; 8 are usual"""
    spoilt: Spoilt = "drop"
    """pairs whose source lost its end, or whose translation reached its length limit: dropped, paired with their raw
    target, or kept"""
    part: str | None = None
    """I/N: make every N-th shard only, from the I-th on, beside other processes; the last one, or the command without
    it, joins them to the same data whatever N is"""
    coordinator: str | None = None
    """HOST:PORT at which process 0 listens, where several processes share the sentences of each shard, without --part
    (docs/scale.md)"""
    processes: int | None = None
    """how many processes share them"""
    process: int | None = None
    """which of them this is, from 0"""


def run(arguments: Distill) -> None:
    if arguments.part is None:
        with distributed.joined(arguments.coordinator, arguments.processes, arguments.process):
            _run(arguments)
        return
    if arguments.coordinator is not None:
        raise ConfigError(
            "--part is for processes that tell each other nothing, and --coordinator for such as share each shard: "
            "give one of them"
        )
    _run(arguments)  # also as one of several tasks of a launcher


def _run(arguments: Distill) -> None:
    bars.say(machine.summary([Run.of(arguments.run_directory).dtype()]))
    manifest = distill(
        arguments.run_directory,
        arguments.directory,
        decoding=arguments.decoding,
        choose=arguments.choose,
        checkpoint=arguments.checkpoint,
        shard_sentences=arguments.shard_sentences,
        max_sentences=arguments.max_sentences,
        batch_tokens=arguments.batch_tokens,
        word_distributions=arguments.word_distributions,
        spoilt=arguments.spoilt,
        part=arguments.part,
    )
    if manifest is not None and distributed.is_first():
        print(data_card.summary(manifest))

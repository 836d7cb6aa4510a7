"""distill RUN: the teacher's translations of the training source, as a prepared directory for students.

Sequence-level knowledge distillation (Kim & Rush 2016, arXiv:1606.07947): students then learn from one
consistent translation of each sentence instead of from one of many (Zhou et al. 2020, arXiv:1911.02727).
Sentence i of the result is the translation of sentence i; validation and tests stay raw. The work is
kept in shards beside the directory: the same command after an interruption goes on at the first shard
that is missing. The manifest's "distilled" is the data card: who translated, how well, and what that
did to the data."""

import dataclasses

from nat_ar.evaluation import data_card
from nat_ar.pipeline.distill import distill
from nat_ar.pipeline.shards import Choose
from nat_ar.translation.translator import BATCH_TOKENS


@dataclasses.dataclass(frozen=True)
class Distill:
    """Let a trained model translate its training data, for students to learn from."""

    run_directory: str
    """run of the teacher"""
    directory: str | None = None
    """where the distilled data go; default RUN/distilled"""
    decoding: str | None = None
    """such as "Beam(size=4)", "Greedy()" or "Sampling(temperature=0.8)"; default: the run's own"""
    choose: Choose = "first"
    """first: the translation that the search ranks highest; best_bleu: the one of the beam with the
    highest sentence BLEU against the reference (Kim & Rush 2016, section 3.2)"""
    checkpoint: str = "best"
    """best (by validation BLEU), latest, or a step"""
    shard_sentences: int = 4096
    """sentences translated between two savings"""
    max_sentences: int | None = None
    """use only the first so many training pairs"""
    batch_tokens: int = BATCH_TOKENS
    """padded source tokens of a batch, which has at most 64 sentences: fewer take less memory, and change no
    translation"""


def run(arguments: Distill) -> None:
    manifest = distill(
        arguments.run_directory,
        arguments.directory,
        decoding=arguments.decoding,
        choose=arguments.choose,
        checkpoint=arguments.checkpoint,
        shard_sentences=arguments.shard_sentences,
        max_sentences=arguments.max_sentences,
        batch_tokens=arguments.batch_tokens,
    )
    print(data_card.summary(manifest))

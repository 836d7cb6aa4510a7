"""distill RUN: the teacher's translations of the training source, as a prepared directory for students.

Sequence-level knowledge distillation (Kim & Rush 2016, arXiv:1606.07947): students then learn from one
consistent translation of each sentence instead of from one of many (Zhou et al. 2020, arXiv:1911.02727).
Sentence i of the result is the translation of sentence i; validation and tests stay raw. The work is
kept in shards beside the directory: the same command after an interruption goes on at the first shard
that is missing. The manifest's "distilled" is the data card: who translated, how well, and what that
did to the data."""

import dataclasses
from typing import Any

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
    print(summary(manifest))


def summary(manifest: dict[str, Any]) -> str:
    """The data card for a person."""
    card, teacher = manifest["distilled"], manifest["distilled"]["teacher"]
    real, distilled = card["raw"], card["distilled"]
    validation, train = card["validation_bleu"], card["train_bleu"]
    seconds = card["seconds"]
    lines = [
        f"{manifest['config']['directory']}: {manifest['splits']['train']['sentences']:,} distilled "
        f"training pairs; data hash {manifest['data_hash'][:12]}",
        f"  teacher {teacher['name']} ({teacher['run']}), checkpoint {card['checkpoint_step']:,}, "
        f"{teacher['parameters']:,} parameters, config {card['config_hash']}",
        f"  {card['decoding']}, choose {card['choose']}",
        f"  teacher BLEU on validation {_interval(validation)}",
        f"  distilled targets against the raw ones: BLEU {_interval(train)}, "
        f"length ratio {card['length_ratio']:.3f}",
        f"    {train['signature']}",
        f"  {'on ' + format(card['aligned_sentences'], ',') + ' pairs':<30}{'raw':>8}{'distilled':>11}",
    ]
    rows = {
        "complexity C(d), nats": "complexity",
        "reordering, Kendall tau": "reordering",
        "repeated words, %": "repetition",
        "sentences with repetition, %": "repetition_sentences",
    }
    lines += [
        f"    {title:<28}{real[key]:>8.3f}{distilled[key]:>11.3f}" for title, key in rows.items()
    ]
    lines += [
        f"    {'faithfulness F(d), nats':<28}{0:>8.3f}{card['faithfulness']:>11.3f}  (0: as the raw data)",
        f"  {card['sentences']:,} sentences in {seconds:,.1f} s, {card['sentences_per_second']:,.1f} "
        f"sentences/s on {card['device']}",
        f"  {card['empty']:,} empty, {card['cut']:,} cut at the length limit, {card['shortened']:,} "
        "of shortened sources",
    ]
    lines += [f"  {reason}: {count:,}" for reason, count in manifest["report"]["counts"].items()]
    return "\n".join([*lines, *(f"  warning: {text}" for text in card["warnings"])])


def _interval(bleu: dict[str, Any]) -> str:
    return (
        f"{bleu['score']:.2f} [{bleu['low']:.2f}, {bleu['high']:.2f}] "
        f"({bleu['sentences']:,} sentences)"
    )

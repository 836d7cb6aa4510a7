"""What distillation did to training data: its data card."""

import itertools
from collections.abc import Sequence
from typing import Any

from nat_ar.data import prepare, references
from nat_ar.data.alignment import aligner
from nat_ar.data.alignment.model import AlignerConfig
from nat_ar.data.arrays import PreparedData
from nat_ar.data.ragged import Ragged
from nat_ar.data.references import Tokenizer
from nat_ar.data.text_lines import Texts
from nat_ar.evaluation import diagnostics, metrics, results
from nat_ar.runtime import bars

BLEU_SENTENCES = 2_000
"""Most training pairs on which the card's BLEU against raw references is measured."""
ALIGNED_SENTENCES = 200_000
"""Most training pairs that are aligned for the card."""


def quality(data: PreparedData, targets: Texts, tokenizer: Tokenizer) -> dict[str, Any]:
    """BLEU, complexity, faithfulness, reordering and repetition of the distilled targets against the raw ones.

    Measured on rows spread evenly over the corpus, without those whose translation is empty, which cannot be
    aligned."""
    train = data.split("train")
    raw = train.lines("target")
    spread = _spread(len(targets), BLEU_SENTENCES)
    bleu = metrics.bleu(
        [targets[row] for row in spread], [raw[row] for row in spread], tokenize=tokenizer
    )
    rows = _spread(len(targets), ALIGNED_SENTENCES)
    encoded = data.vocabulary.encode_target([targets[row] for row in rows])
    is_pair = [
        bool(tokens) and train.source.lengths[row] > 0 and train.target.lengths[row] > 0
        for row, tokens in zip(rows, encoded, strict=True)
    ]
    rows = list(itertools.compress(rows, is_pair))
    source = _select(train.source, rows)
    sides: dict[str, tuple[Ragged, Texts]] = {
        "raw": (_select(train.target, rows), raw),
        "distilled": (Ragged.from_rows(itertools.compress(encoded, is_pair)), targets),
    }
    config = prepare.config_of(data).aligner or AlignerConfig()
    lexicons, described = {}, {}
    for name, (target, texts) in sides.items():
        with bars.line(f"alignment of {name} pairs") as line:
            links = aligner.align(
                source,
                target,
                config,
                source_size=data.vocabulary.source_size,
                target_size=data.vocabulary.target_size,
                progress=line.set_description_str,
            )
        lexicons[name] = diagnostics.lexicon(links, source, target)
        repetition = diagnostics.repetition(
            [*references.words((texts[row] for row in rows), tokenizer)]
        )
        described[name] = {
            "complexity": diagnostics.complexity(lexicons[name]),
            "reordering": diagnostics.reordering(links, source, target),
            "repetition": repetition.tokens,
            "repetition_sentences": repetition.sentences,
        }
    return {
        "train_bleu": {**bleu.as_row(), "sentences": len(spread)},
        "length_ratio": diagnostics.length_ratio(
            *(references.words(texts, tokenizer) for texts in (targets, raw))
        ),
        "aligned_sentences": len(rows),
        "faithfulness": diagnostics.faithfulness(lexicons["raw"], lexicons["distilled"]),
        **described,
    }


def _select(ragged: Ragged, rows: Sequence[int]) -> Ragged:
    return Ragged.from_rows([ragged[row].tolist() for row in rows])


def _spread(number: int, most: int) -> list[int]:
    """All of the numbers below `number`, or `most` of them, evenly spaced."""
    kept = min(number, most)
    return [index * number // kept for index in range(kept)]


def warnings_of(card: dict[str, Any]) -> list[str]:
    """One short line for each number of a card that points to a fault (docs/metrics.md)."""
    warnings = diagnostics.warnings(
        length_ratio=card["length_ratio"],
        repetition=card["distilled"]["repetition"],
        reference_repetition=card["raw"]["repetition"],
        empty=card["empty"],
        sentences=card["sentences"],
    )
    counts = {
        "translations reached their length limit": card["cut"],
        "sources were longer than the longest bucket": card["shortened"],
    }
    return warnings + [f"{count} {what}" for what, count in counts.items() if count]


def summary(manifest: dict[str, Any]) -> str:
    """The data card in the manifest of a distilled directory, as text."""
    card, teacher = manifest["distilled"], manifest["distilled"]["teacher"]
    real, distilled = card["raw"], card["distilled"]
    validation, train = card["validation_bleu"], card["train_bleu"]
    seconds = card["seconds"]
    lines = [
        f"{manifest['config']['directory']}: {manifest['splits']['train']['sentences']:,} distilled "
        f"training pairs; data hash {manifest['data_hash'][:12]}",
        f"  teacher {teacher['name']} ({teacher['run']}), {results.checkpoint_text({**card, **teacher})}, "
        f"{teacher['parameters']:,} parameters{_known_by(teacher)}, config {card['config_hash']}",
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
        "from shortened sources",
    ]
    lines += [f"  {reason}: {count:,}" for reason, count in manifest["report"]["counts"].items()]
    about = (
        teacher.get("family", "AR"),
        teacher.get("training_data", "raw"),
    )  # early cards: the teacher was AR
    lines += [f"  warning: {diagnostics.with_cause(text, *about)}" for text in card["warnings"]]
    return "\n".join(lines)


def _known_by(teacher: dict[str, Any]) -> str:
    """Cards of early versions have no hash."""
    return f" ({teacher['parameters_hash'][:12]})" if "parameters_hash" in teacher else ""


def _interval(bleu: dict[str, Any]) -> str:
    return (
        f"{bleu['score']:.2f} [{bleu['low']:.2f}, {bleu['high']:.2f}] "
        f"({bleu['sentences']:,} sentences)"
    )

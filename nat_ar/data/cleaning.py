"""From a corpus to clean texts on disk, in memory that does not grow with the corpus."""

from collections.abc import Callable, Iterable
from pathlib import Path

from nat_ar.data import hold_out, vocabulary
from nat_ar.data.arrays import TextWriter
from nat_ar.data.corpus import Corpus
from nat_ar.data.pair import Pair, Report

Progress = Callable[[Iterable[Pair], str], Iterable[Pair]]
"""(pairs, title) -> the same pairs, while a progress bar counts them."""


def spool(
    corpus: Corpus, directory: Path, report: Report, *, removes_overlap: bool, progress: Progress
) -> dict[str, int]:
    """Writes the clean texts of every split; returns the number of pairs of each. Training comes last, to be checked
    for overlap with all other splits."""
    splits = corpus.splits(report)
    for name in ("train", "validation"):
        if name not in splits:
            raise ValueError(
                f"the corpus has no {name} split, only {', '.join(splits)}: name one, "
                "or hold pairs out of training (hold_out)"
            )
    evaluation_sources: set[str] = set()
    evaluation_targets: set[str] = set()
    sentences = dict.fromkeys(splits, 0)
    for name in [*(name for name in splits if name != "train"), "train"]:
        writer = TextWriter(directory / name)
        for pair in progress(splits[name], f"read {name}"):
            pair = _clean(pair, name, report)
            if not pair.source.strip() or not pair.target.strip():
                report.drop(name, "empty side")
                continue
            if removes_overlap:
                keys = hold_out.normalised(pair.source), hold_out.normalised(pair.target)
                if name != "train":
                    evaluation_sources.add(keys[0])
                    evaluation_targets.add(keys[1])
                elif keys[0] in evaluation_sources:
                    report.drop(name, "source in validation or test", pair.source)
                    continue
                elif keys[1] in evaluation_targets:
                    report.drop(name, "target in validation or test", pair.target)
                    continue
            try:
                writer.append(pair)
            except UnicodeEncodeError as error:
                report.drop(name, "not UTF-8", repr(error.object))
        writer.close()
        sentences[name] = writer.pairs
        check_not_empty(name, sentences[name], report)
    return sentences


def _clean(pair: Pair, name: str, report: Report) -> Pair:
    """Line breaks become spaces: the files have a sentence a line."""
    if all(map(str.isprintable, pair)):  # line breaks are not printable
        return pair
    clean = Pair(*(vocabulary.one_line(field) for field in pair))
    if clean != pair:
        report.count(f"{name}: line breaks inside a text became spaces", pair.source[:80])
    return clean


def check_not_empty(name: str, sentences: int, report: Report) -> None:
    """Raises ValueError with the counts of the report, which say why, if no pair is left."""
    if sentences == 0:
        counts = "; ".join(f"{reason}: {n}" for reason, n in report.counts.items())
        raise ValueError(f"the {name} split has no pairs left ({counts or 'it was empty'})")

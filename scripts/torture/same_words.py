"""Whether decodings that verify drafts say the words of the decoding without drafts: each sentence of a text, in
batches and alone.

    python -m scripts.torture.same_words RUN SOURCE.txt "Jacobi(block=6)" "Speculative(block=6, drafter='ctc')"

With NAT_AR_NATIVE=0 XLA's operations are compared, where a near tie may turn a word: such sentences are counted apart.
Exits with 1 where any other differs."""

import sys
from collections.abc import Sequence
from pathlib import Path

from nat_ar.experiment.translators import open_translator
from nat_ar.translation.decodings import decoding_text
from nat_ar.translation.translation import Translation


def differences(
    plain: Sequence[Translation], drafted: Sequence[Translation]
) -> tuple[int, int, int]:
    """Sentences whose words differ, without and with a near tie, and those whose scores differ in any bit."""
    unexplained = explained = scores = 0
    for one, other in zip(plain, drafted, strict=True):
        if one.tokens != other.tokens:
            explained += bool(other.near_ties)
            unexplained += not other.near_ties
        scores += one.scores != other.scores
    return unexplained, explained, scores


def main(arguments: Sequence[str]) -> int:
    run, source, *decodings = arguments
    sentences = Path(source).read_text("utf-8").splitlines()
    is_wrong = False
    for text in decodings:
        _, drafted = open_translator(run, text)
        _, plain = open_translator(run, decoding_text(drafted.decoding.plain))
        for max_rows in (64, 1):
            plain.max_rows = drafted.max_rows = max_rows
            found = [each.translate(sentences, is_quiet=True) for each in (plain, drafted)]
            unexplained, explained, scores = differences(*found)
            print(
                f"{text}, {len(sentences)} sentences, up to {max_rows} together: {unexplained} differ, {explained} "
                f"more with a near tie; {scores} scores differ in some bit",
                flush=True,
            )
            is_wrong |= unexplained > 0
    return int(is_wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The numbers that another program gives the sentences of a row, one each: a metric beside BLEU, with interval and
paired test. `evaluate --scores COMET=FILE`."""

import dataclasses
import re
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from nat_ar.config_json import ConfigError
from nat_ar.data.evaluation_set import EvaluationSet
from nat_ar.evaluation import metrics, results, sentence_scores
from nat_ar.evaluation.metrics import Metric
from nat_ar.evaluation.results import Row
from nat_ar.evaluation.table import columns
from nat_ar.experiment import provenance
from nat_ar.runtime import files

HYPOTHESES = "{hypotheses}"
SPELLING = re.compile(
    r"(?P<title>[A-Za-z]\w*)(?::(?P<direction>higher|lower))?=(?P<what>.+)", re.ASCII | re.DOTALL
)
SMALL = 2.0
"""Scores whose mean is nearer to 0 are shown with four decimals."""


@dataclasses.dataclass(frozen=True)
class GivenScores:
    """Where the numbers come from, and what they are called."""

    title: str
    """in tables; in lower case the key of a row and the column's name"""
    what: str
    """a file with a number a line; or, with {hypotheses} in it, a command that prints them, whose {source},
    {hypotheses} and {references} become paths"""
    direction: Literal["higher", "lower"] = "higher"

    @classmethod
    def of(cls, text: str) -> "GivenScores":
        """From NAME=FILE, NAME=COMMAND, or NAME:lower=... where lower is better. Raises ConfigError for any other
        text, and for a file that does not exist."""
        found = SPELLING.fullmatch(text)
        if found is None:
            raise ConfigError(
                f"scores: expected NAME=FILE, or NAME=COMMAND with {HYPOTHESES} in it, such as COMET=scores.txt "
                f"(NAME:lower= where lower is better), got {text!r}"
            )
        direction: Literal["higher", "lower"] = (
            "lower" if found["direction"] == "lower" else "higher"
        )
        given = cls(found["title"], found["what"], direction)
        if not given.is_command and not Path(given.what).is_file():
            raise ConfigError(
                f"scores {given.title}: expected a file with a number a line, or a command with {HYPOTHESES} in it, "
                f"got {given.what!r}, which is no file"
            )
        return given

    @property
    def name(self) -> str:
        return self.title.lower()

    @property
    def is_command(self) -> bool:
        return HYPOTHESES in self.what

    @property
    def signature(self) -> str:
        """Numbers from files are taken to be of one program where they have one name."""
        return f"a number a sentence{f', by {self.what}' if self.is_command else ''}"

    def numbers(
        self, hypotheses: Path, references: Sequence[Path], test: EvaluationSet
    ) -> tuple[float, ...]:
        """One for each translation. Raises ValueError where there are not as many, and for a command that fails."""
        if not self.is_command:
            lines = Path(self.what).read_text("utf-8").splitlines()
            return sentence_scores.read(
                lines, len(test.source), f"scores {self.title}, {self.what}"
            )
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "source.txt")
            files.write_text(source, "".join(f"{line}\n" for line in test.source))
            paths = {"{source}": [source], HYPOTHESES: [hypotheses], "{references}": references}
            lines = _printed(_filled(shlex.split(self.what), paths), self.title)
        return sentence_scores.read(
            lines, len(test.source), f"scores {self.title}, what {self.what} prints"
        )


def check(given: Sequence[GivenScores], chosen: Sequence[Metric]) -> None:
    """Raises ValueError, before any work, for a name that a metric, a column or a key of rows has."""
    named = [Metric(one.name, one.title, sentence_scores.elsewhere) for one in given]
    metrics.require_own_names([*chosen, *named])
    results.check_metric_names(one.name for one in given)
    columns.check((), named)


def add(directory: Path, row: Row, test: EvaluationSet, given: Sequence[GivenScores]) -> Row:
    """Writes the row again, with the scores of its translations beside those that it has, and returns it. Raises
    ValueError where the translations are no longer those of the row."""
    hypotheses = directory / row["hypotheses"]
    if not hypotheses.is_file() or files.file_hash(hypotheses) != row.get("hypotheses_hash"):
        raise ValueError(
            f"{hypotheses}: expected the translations of the row that `evaluate` wrote on {row['date'][:10]}, got "
            f"{'others' if hypotheses.is_file() else 'no file'}; evaluate again without --scores, and score those"
        )
    references = [directory / name for name in (row["references"], *row.get("more_references", ()))]
    scores = {}
    for one in given:
        values = one.numbers(hypotheses, references, test)
        score = metrics.of_sentences(values, one.signature)
        decimals = 4 if abs(score.score) < SMALL else 2
        metric = Metric(
            one.name,
            one.title,
            sentence_scores.elsewhere,
            one.direction,
            decimals,
            shows_interval=True,
        )
        scores[metric] = score
    kept = sentence_scores.keep(directory, row["hypotheses"], row["hypotheses_hash"], scores)
    words = [word for one in given for word in ("--scores", _text(one))]
    added = {
        **row,
        **{metric.name: score.as_row() for metric, score in scores.items()},
        "sentence_scores": {**(row.get("sentence_scores") or {}), **kept},
        "date": provenance.now(),
        "command": f"{row['command']} {shlex.join(words)}",
    }
    results.append(directory, added)
    return added


def _text(given: GivenScores) -> str:
    return f"{given.title}{':lower' if given.direction == 'lower' else ''}={given.what}"


def _filled(words: Sequence[str], paths: dict[str, Sequence[Path]]) -> list[str]:
    """The words with paths in place of the names in braces: a word once for each of several references."""
    filled = list(words)
    for name, values in paths.items():
        filled = [
            made
            for word in filled
            for made in (
                [word.replace(name, str(path)) for path in values] if name in word else [word]
            )
        ]
    return filled


def _printed(words: Sequence[str], title: str) -> list[str]:
    """The lines of a command's standard output; its errors pass."""
    try:
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    except OSError as error:
        raise ValueError(
            f"scores {title}: {words[0]} cannot be started: {error.strerror}"
        ) from error
    if done.returncode:
        raise ValueError(
            f"scores {title}: expected a number for each sentence, got status {done.returncode} of "
            f"{shlex.join(words)}; the row without them is written: mend the command, and give it again"
        )
    return done.stdout.splitlines()

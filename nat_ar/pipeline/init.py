"""Writes the config of a first study on a user's own sentences."""

import re
from pathlib import Path

from nat_ar.config_json import ConfigError
from nat_ar.data import text_files
from nat_ar.runtime import files

TEMPLATE = '''\
"""{name}: {source} -> {target}, {pairs:,} pairs.

    python -m nat_ar study {path}

`python -m nat_ar study {path} --help` explains every field; docs/methods.md has the other methods."""

from nat_ar.data.hold_out import HoldOut
from nat_ar.data.prepare import DataConfig
from nat_ar.data.text_files import TextFiles
from nat_ar.data.vocabulary import VocabularyConfig
from nat_ar.experiment.study import Entry, StudyConfig
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.ctc import Ctc
from nat_ar.nn.transformer import TransformerConfig
from nat_ar.training.config import TrainingConfig, ValidationConfig
from nat_ar.training.optimizer import OptimizerConfig

# Small, for CPUs. On a GPU and with a million pairs: d_model=512, d_hidden=2048, six layers each, 100,000 steps.
network = TransformerConfig(d_model=256, d_hidden=1024, num_encoder_layers=3, num_decoder_layers=3)
training = TrainingConfig(
    max_steps=3000,
    optimizer=OptimizerConfig(peak_learning_rate=1e-3, warmup_steps=400, schedule="cosine"),
    validation=ValidationConfig(every_steps=500, sentences={validated}),
)
corpus = TextFiles(
    train=({source!r}, {target!r}),
    hold_out=HoldOut(validation={held_out}, test={held_out}),  # taken out of the training pairs
    source_language={source_language!r},
    target_language={target_language!r},  # BLEU cuts words as this language wants it
)
config = StudyConfig(
    name={name!r},
    directory={study!r},
    data=DataConfig({data!r}, corpus, VocabularyConfig(size={vocabulary})),
    teacher=Entry("ar", Autoregressive(network), training, decodings=("Beam(size=4)", "Greedy()")),
    # One pass; distilled: it learns from the teacher's translations.
    entries=(Entry("ctc_kd", Ctc(network), training, distilled=True),),
)
'''


def write(
    name: str, source: str, target: str, *, languages: tuple[str | None, str | None] = (None, None)
) -> Path:
    """The path of the new file, NAME.py. The held-out sets and the vocabulary have sizes that suit the files.

    Raises ConfigError where the file exists, or the two have no equal counts of lines, or fewer than 50."""
    path = Path(name).with_suffix(".py")
    if path.exists():
        raise ConfigError(f"expected the name of a new file, got {path}, which exists")
    lines, others = (
        text_files.lines_to_translate(Path(side).read_bytes(), side)[0] for side in (source, target)
    )
    if len(lines) != len(others) or len(lines) < 50:
        raise ConfigError(
            f"expected two files of equal line counts, at least 50, got {len(lines)} lines in {source} and "
            f"{len(others)} in {target}"
        )
    source_language, target_language = (
        given or language_of(side) for given, side in zip(languages, (source, target), strict=True)
    )
    held_out = max(5, min(2000, len(lines) // 20))
    text = TEMPLATE.format(
        name=path.stem,
        path=path,
        source=source,
        target=target,
        pairs=len(lines),
        held_out=held_out,
        validated=min(500, held_out),
        source_language=source_language,
        target_language=target_language,
        study=f"studies/{path.stem}",
        data=f"data/{path.stem}",
        vocabulary=vocabulary_size([*lines, *others]),
    )
    files.write_text(path, text)
    return path


def language_of(path: str) -> str | None:
    """The code that a file is called by, train.en, en.txt or en.txt.gz; None: by none."""
    stem = re.sub(r"\.(gz|txt)(?=\.|$)", "", Path(path).name)
    code = stem.rpartition(".")[2]
    return code if re.fullmatch(r"[a-z]{2}(-[A-Z]{2})?", code) else None


def vocabulary_size(lines: list[str]) -> int:
    """8,000, or fewer where the texts have fewer words than that could fill: the special ids, bytes and characters, and
    half as many pieces as there are words."""
    words = {word for line in lines for word in line.split()}
    characters = {character for word in words for character in word}
    return min(8000, 263 + len(characters) + len(words) // 2)

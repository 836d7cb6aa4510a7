"""The shards of a distillation: what is translated is kept, so that an interruption loses at most one shard."""

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from nat_ar import config_json
from nat_ar.data.arrays import Split
from nat_ar.data.references import Tokenizer
from nat_ar.evaluation import metrics
from nat_ar.evaluation.speed import machine
from nat_ar.runtime import bars, files
from nat_ar.search import limits
from nat_ar.translation import decodings, translator
from nat_ar.translation.translator import Translation, Translator

FORMAT = 1
"""Of shards and card."""
LATER_INPUTS = ("parameters_hash", "rescorer", "spoilt")
"""What early versions did not write: there it is taken to be equal."""
Choose = Literal["first", "best_bleu"]
Spoilt = Literal["drop", "raw", "keep"]
"""What becomes of a pair whose source lost its end, or whose translation reached its length limit."""


def best_of(translation: Translation, reference: str, tokenizer: Tokenizer) -> int:
    """The index of the translation with the highest sentence BLEU; ties go to the first."""
    scores = [
        metrics.sentence_bleu(text, reference, tokenize=tokenizer) for text in translation.texts
    ]
    return scores.index(max(scores))


def check_inputs(directory: Path, old: dict[str, Any], new: dict[str, Any], method: type) -> None:
    """Raises ValueError with the differences between what a directory was distilled from and what is asked for now.
    `method`: the teacher's class, under whose decodings an earlier version may have written another name."""
    old = {**old, "decoding": decodings.renamed(method, old["decoding"] or "")}
    new = {name: new[name] for name in new if name not in LATER_INPUTS or old.get(name) is not None}
    if changed := list(config_json.differences(old, new)):
        raise ValueError(
            f"{directory} was distilled from other inputs ({'; '.join(changed)}): name another "
            "--directory, or remove this one"
        )


@contextlib.contextmanager
def directory(shards: Path, inputs: dict[str, Any], method: type) -> Iterator[None]:
    """Makes the directory of the shards, continues one that was made with the same inputs, or takes over one in which
    nothing is translated yet; removes it when its work is done. Raises ConfigError where another process is at it."""
    shards.mkdir(parents=True, exist_ok=True)
    with files.locked(shards):
        path = shards / "inputs.json"
        if path.exists() and any(other != path for other in shards.glob("*.json")):
            check_inputs(shards, read_json(path), inputs, method)
        else:
            write_json(path, inputs)
        yield
        shutil.rmtree(shards, ignore_errors=True)


def translate(
    shards: Path,
    teacher: Translator,
    train: Split,
    choose: Choose,
    shard_sentences: int,
    tokenizer: Tokenizer,
    *,
    title: str,
) -> list[dict[str, Any]]:
    """All shards, in order. Shards that exist already are read, not translated again."""
    spans = [
        range(first, min(first + shard_sentences, len(train)))
        for first in range(0, len(train), shard_sentences)
    ]
    paths = [shards / f"{rows.start:09d}.json" for rows in spans]
    is_made = [path.exists() for path in paths]
    bar = bars.Bar(
        total=len(train),
        initial=sum(len(rows) for rows, made in zip(spans, is_made, strict=True) if made),
        unit="sentence",
        desc=f"distill {title}",
    )
    with bar:
        for number, (rows, path, made) in enumerate(zip(spans, paths, is_made, strict=True)):
            if not made:
                part = f"shard {number + 1}/{len(spans)}"
                shard = _translate_shard(teacher, train, rows, choose, tokenizer, title=part)
                write_json(path, shard)
                bar.update(len(rows))
    return [_read_shard(path, rows) for path, rows in zip(paths, spans, strict=True)]


def _translate_shard(
    teacher: Translator,
    train: Split,
    rows: range,
    choose: Choose,
    tokenizer: Tokenizer,
    *,
    title: str,
) -> dict[str, Any]:
    """The translations of the training sources in `rows`, and the seconds they took."""
    began = time.perf_counter()
    found = teacher.translate([train.source_text[row] for row in rows], title=title)
    texts, num_cut, spoilt = [], 0, []
    for row, translation in zip(rows, found, strict=True):
        best = 0
        if choose == "best_bleu":
            best = best_of(translation, train.target_text[row], tokenizer)
        texts.append(translation.texts[best])
        source_tokens = min(int(train.source.lengths[row]), translator.BUCKETS[-1] - 1) + 1
        is_cut = len(translation.tokens[best]) >= limits.length_limit(source_tokens)
        num_cut += is_cut
        if is_cut or translation.is_shortened:
            spoilt.append(row)
    return {
        "first": rows.start,
        "texts": texts,
        "cut": num_cut,
        "spoilt": spoilt,
        "shortened": sum(translation.is_shortened for translation in found),
        "seconds": time.perf_counter() - began,
        "device": machine.device_name(),
    }


def _read_shard(path: Path, rows: range) -> dict[str, Any]:
    shard = read_json(path)
    found = range(shard["first"], shard["first"] + len(shard["texts"]))
    if found != rows:
        raise ValueError(
            f"{path}: expected the translations of training sentences {rows.start} to "
            f"{rows.stop - 1}, got {found.start} to {found.stop - 1}; remove it and distil again"
        )
    return shard


def validation_bleu(
    path: Path, teacher: Translator, validation: Split, tokenizer: Tokenizer
) -> dict[str, Any]:
    """BLEU of the teacher under the same decoding, of its first translations whatever `choose` is."""
    if path.exists():
        return read_json(path)
    found = teacher.translate(validation.source_text, title="validation")
    texts = [translation.texts[0] for translation in found]
    bleu = metrics.bleu(texts, validation.target_text, tokenize=tokenizer)
    result = {**bleu.as_row(), "sentences": len(validation)}
    write_json(path, result)
    return result


def write_json(path: Path, value: dict[str, Any]) -> None:
    files.write_text(path, json.dumps(files.signed(value), ensure_ascii=False))


def read_json(path: Path) -> dict[str, Any]:
    return files.read_json(path, remedy="remove it and distil again", is_signed=True)

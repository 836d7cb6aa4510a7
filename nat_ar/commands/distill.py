"""distill RUN: the teacher's translations of the training source, as a prepared directory for students.

Sequence-level knowledge distillation (Kim & Rush 2016, arXiv:1606.07947): students then learn from one
consistent translation of each sentence instead of from one of many (Zhou et al. 2020, arXiv:1911.02727).
Sentence i of the result is the translation of sentence i; validation and tests stay raw. The work is
kept in shards beside the directory: the same command after an interruption goes on at the first shard
that is missing. The manifest's "distilled" is the data card: who translated, how well, and what that
did to the data."""

import dataclasses
import datetime
import itertools
import json
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import tqdm

from nat_ar import config_json
from nat_ar.data import arrays, prepare
from nat_ar.data.alignment import aligner
from nat_ar.data.alignment.model import AlignerConfig
from nat_ar.data.arrays import PreparedData, Split
from nat_ar.data.prepare import DataConfig
from nat_ar.data.ragged import Ragged
from nat_ar.evaluation import diagnostics, metrics
from nat_ar.evaluation.speed import machine
from nat_ar.experiment.run import Run, TrainedModel, open_translator
from nat_ar.runtime import files
from nat_ar.search import limits
from nat_ar.training.checkpoint import Checkpoints
from nat_ar.translation import decodings, translator
from nat_ar.translation.translator import BATCH_TOKENS, Translation, Translator

BLEU_SENTENCES = 2_000
"""Most training pairs on which the card's BLEU against raw references is measured."""
ALIGNED_SENTENCES = 200_000
"""Most training pairs that are aligned for the card."""
FORMAT = 1
"""Of shards and card."""

Choose = Literal["first", "best_bleu"]


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
        Run(Path(arguments.run_directory)),
        None if arguments.directory is None else Path(arguments.directory),
        decoding=arguments.decoding,
        choose=arguments.choose,
        checkpoint=arguments.checkpoint,
        shard_sentences=arguments.shard_sentences,
        max_sentences=arguments.max_sentences,
        batch_tokens=arguments.batch_tokens,
    )
    print(summary(manifest))


def distill(
    run: Run,
    directory: Path | None = None,
    *,
    decoding: str | None = None,
    choose: Choose = "first",
    checkpoint: str = "best",
    shard_sentences: int = 4096,
    max_sentences: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> dict[str, Any]:
    """Makes the distilled directory, goes on making it, or finds it made, and returns its manifest.

    Raises ValueError where `directory` or the shards beside it come from other inputs, with the
    differences."""
    for name, value in (
        ("shard_sentences", shard_sentences),
        ("max_sentences", max_sentences),
        ("batch_tokens", batch_tokens),
    ):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    directory = run.directory / "distilled" if directory is None else directory
    shards = directory.with_name(directory.name + ".shards")
    config = run.config()
    decoding = _decoding(config.method, decoding, choose)
    data = _raw_data(run, config.data.directory)
    inputs = {
        "format": FORMAT,
        "config_hash": config_json.hash_of(config),
        "checkpoint_step": _step(run, checkpoint),
        "decoding": decoding,
        "choose": choose,
        "base_hash": data.hash,
        "max_sentences": max_sentences,
    }
    if (directory / arrays.MANIFEST).exists():
        manifest = _made_before(directory, inputs)
        shutil.rmtree(shards, ignore_errors=True)
        return manifest
    if directory.exists() and any(directory.iterdir()):
        raise ValueError(
            f"{directory} holds files, but no {arrays.MANIFEST}: name a new or an empty --directory"
        )
    if max_sentences is not None:
        data = _first_pairs(data, max_sentences)
    _open_shards(shards, {**inputs, "shard_sentences": shard_sentences})
    loaded, teacher = open_translator(run, decoding, str(inputs["checkpoint_step"]))
    teacher.batch_tokens = batch_tokens
    validation = _validation_bleu(shards / "validation.json", teacher, data.split("validation"))
    train, name = data.split("train"), loaded.config.name
    parts = _translate(shards, teacher, train, choose, shard_sentences, title=name)
    targets = [text for part in parts for text in part["texts"]]
    _check_not_all_empty(targets, run)
    seconds = sum(part["seconds"] for part in parts)
    card = {
        **inputs,
        "teacher": _teacher(run, loaded),
        "validation_bleu": validation,
        **_quality(data, targets),
        "sentences": len(targets),
        "empty": sum(not text.strip() for text in targets),
        "cut": sum(part["cut"] for part in parts),
        "shortened": sum(part["shortened"] for part in parts),
        "seconds": round(seconds, 2),
        "sentences_per_second": round(len(targets) / seconds, 2),
        "device": ", ".join(sorted({part["device"] for part in parts})),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": _command(run, directory, inputs, shard_sentences),
    }
    card["warnings"] = _warnings(card)
    manifest = prepare.write_distilled(data, directory, targets, card)
    shutil.rmtree(shards)
    return manifest


def best_of(translation: Translation, reference: str) -> int:
    """The place of the translation with the highest sentence BLEU; of equal ones the first."""
    scores = [metrics.sentence_bleu(text, reference) for text in translation.texts]
    return scores.index(max(scores))


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


def _decoding(method: Any, text: str | None, choose: Choose) -> str:
    """The decoding in full; to choose from the beam, the search must hand the whole beam back."""
    chosen = decodings.parse_decoding(method, text)
    if choose == "best_bleu":
        if not {"size", "n_best"} <= {field.name for field in dataclasses.fields(chosen)}:
            raise ValueError(
                f"choose best_bleu needs a beam to choose from, got {chosen}; use Beam()"
            )
        chosen = dataclasses.replace(chosen, n_best=chosen.size)
    return decodings.decoding_text(chosen)


def _raw_data(run: Run, directory: str) -> PreparedData:
    """The raw corpus, in the vocabulary that the run was trained with."""
    data = PreparedData.load(directory)
    if data.training_data != "raw":
        raise ValueError(f"{directory}: expected raw data to distil, got {data.training_data} data")
    if data.vocabulary.hash != run.facts()["vocabulary_hash"]:
        raise ValueError(
            f"{directory} was prepared with another vocabulary than {run.directory} was trained "
            "with; restore the data or train again"
        )
    return data


def _step(run: Run, checkpoint: str) -> int:
    checkpoints = Checkpoints(run.checkpoints_directory, is_read_only=True)
    step = checkpoints.resolve(checkpoint)
    checkpoints.close()
    return step


class _FirstPairs(Split):
    """A split of which only the first pairs are used."""

    def _lines(self, name: str) -> list[str]:
        return files.read_lines(self.directory / f"{name}.txt")[: len(self)]


def _first_pairs(data: PreparedData, number: int) -> PreparedData:
    """The data with no more training pairs than that."""
    train = data.split("train")

    def first(rows: Ragged) -> Ragged:
        offsets = rows.offsets[: number + 1]
        return Ragged(rows.values[: offsets[-1]], offsets)

    fewer = _FirstPairs("train", train.directory, first(train.source), first(train.target), None)
    return dataclasses.replace(data, _splits={**data._splits, "train": fewer})


def _made_before(directory: Path, inputs: dict[str, Any]) -> dict[str, Any]:
    manifest = PreparedData.load(directory).manifest
    if manifest["training_data"] != "distilled":
        raise ValueError(
            f"{directory} holds {manifest['training_data']} data; name another --directory"
        )
    _check_inputs(directory, {key: manifest["distilled"].get(key) for key in inputs}, inputs)
    return manifest


def _check_inputs(directory: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    if changed := list(config_json.differences(old, new)):
        raise ValueError(
            f"{directory} was distilled from other inputs ({'; '.join(changed)}): name another "
            "--directory, or remove this one"
        )


def _open_shards(shards: Path, inputs: dict[str, Any]) -> None:
    """Makes the place of the shards, or finds it made with the same inputs."""
    shards.mkdir(parents=True, exist_ok=True)
    path = shards / "inputs.json"
    if path.exists():
        _check_inputs(shards, _read_json(path), inputs)
    else:
        _write_json(path, inputs)


def _translate(
    shards: Path,
    teacher: Translator,
    train: Split,
    choose: Choose,
    shard_sentences: int,
    *,
    title: str,
) -> list[dict[str, Any]]:
    """All shards, in order. Those that an earlier start has finished are not translated again."""
    spans = [
        range(first, min(first + shard_sentences, len(train)))
        for first in range(0, len(train), shard_sentences)
    ]
    paths = [shards / f"{rows.start:09d}.json" for rows in spans]
    is_made = [path.exists() for path in paths]
    bar = tqdm.tqdm(
        total=len(train),
        initial=sum(len(rows) for rows, made in zip(spans, is_made, strict=True) if made),
        unit="sentence",
        desc=f"distill {title}",
        disable=not sys.stderr.isatty(),
        dynamic_ncols=True,
    )
    with bar:
        for number, (rows, path, made) in enumerate(zip(spans, paths, is_made, strict=True)):
            if not made:
                part = f"shard {number + 1}/{len(spans)}"
                shard = _translate_shard(teacher, train, rows, choose, title=part)
                _write_json(path, shard)
                bar.update(len(rows))
    return [_read_shard(path, rows) for path, rows in zip(paths, spans, strict=True)]


def _translate_shard(
    teacher: Translator, train: Split, rows: range, choose: Choose, *, title: str
) -> dict[str, Any]:
    """The translations of some training sources, and what they cost."""
    began = time.perf_counter()
    found = teacher.translate([train.source_text[row] for row in rows], title=title)
    texts, num_cut = [], 0
    for row, translation in zip(rows, found, strict=True):
        best = 0 if choose == "first" else best_of(translation, train.target_text[row])
        texts.append(translation.texts[best])
        source_tokens = min(int(train.source.lengths[row]), translator.BUCKETS[-1] - 1) + 1
        num_cut += len(translation.tokens[best]) >= limits.length_limit(source_tokens)
    return {
        "first": rows.start,
        "texts": texts,
        "cut": num_cut,
        "shortened": sum(translation.is_shortened for translation in found),
        "seconds": time.perf_counter() - began,
        "device": machine.device_name(),
    }


def _read_shard(path: Path, rows: range) -> dict[str, Any]:
    shard = _read_json(path)
    found = range(shard["first"], shard["first"] + len(shard["texts"]))
    if found != rows:
        raise ValueError(
            f"{path}: expected the translations of training sentences {rows.start} to "
            f"{rows.stop - 1}, got {found.start} to {found.stop - 1}; remove it and distil again"
        )
    return shard


def _validation_bleu(path: Path, teacher: Translator, validation: Split) -> dict[str, Any]:
    """BLEU of the teacher with the same decoding. References choose nothing here: always the first."""
    if path.exists():
        return _read_json(path)
    found = teacher.translate(validation.source_text, title="validation")
    bleu = metrics.bleu([translation.texts[0] for translation in found], validation.target_text)
    result = {**dataclasses.asdict(bleu), "sentences": len(validation)}
    _write_json(path, result)
    return result


def _quality(data: PreparedData, targets: Sequence[str]) -> dict[str, Any]:
    """What distillation did to the training targets, on rows spread evenly over the corpus; a row whose
    translation is empty is no pair and cannot be aligned."""
    train = data.split("train")
    references = train.target_text
    spread = _spread(len(targets), BLEU_SENTENCES)
    bleu = metrics.bleu([targets[row] for row in spread], [references[row] for row in spread])
    rows = _spread(len(targets), ALIGNED_SENTENCES)
    encoded = data.vocabulary.encode_target([targets[row] for row in rows])
    is_pair = [
        bool(tokens) and train.source.lengths[row] > 0 and train.target.lengths[row] > 0
        for row, tokens in zip(rows, encoded, strict=True)
    ]
    rows = list(itertools.compress(rows, is_pair))
    source = _select(train.source, rows)
    sides = {
        "raw": (_select(train.target, rows), references),
        "distilled": (Ragged.from_rows(itertools.compress(encoded, is_pair)), targets),
    }
    config = config_json.from_json(DataConfig, data.manifest["config"]).aligner or AlignerConfig()
    lexicons, described = {}, {}
    for name, (target, texts) in sides.items():
        links = aligner.align(
            source,
            target,
            config,
            source_size=data.vocabulary.source_size,
            target_size=data.vocabulary.target_size,
            progress=_say,
        )
        lexicons[name] = diagnostics.lexicon(links, source, target)
        repetition = diagnostics.repetition([texts[row].split() for row in rows])
        described[name] = {
            "complexity": diagnostics.complexity(lexicons[name]),
            "reordering": diagnostics.reordering(links, source, target),
            "repetition": repetition.tokens,
            "repetition_sentences": repetition.sentences,
        }
    return {
        "train_bleu": {**dataclasses.asdict(bleu), "sentences": len(spread)},
        "length_ratio": diagnostics.length_ratio(targets, references),
        "aligned_sentences": len(rows),
        "faithfulness": diagnostics.faithfulness(lexicons["raw"], lexicons["distilled"]),
        **described,
    }


def _select(ragged: Ragged, rows: Sequence[int]) -> Ragged:
    return Ragged.from_rows([ragged[row].tolist() for row in rows])


def _spread(number: int, most: int) -> list[int]:
    """All of the numbers below `number`, or `most` of them, evenly spaced."""
    kept = min(number, most)
    return [place * number // kept for place in range(kept)]


def _check_not_all_empty(targets: Sequence[str], run: Run) -> None:
    if not any(text.strip() for text in targets):
        raise ValueError(
            f"all {len(targets)} translations of {run.directory} are empty; train the teacher longer"
        )


def _teacher(run: Run, loaded: TrainedModel) -> dict[str, Any]:
    return {
        "name": loaded.config.name,
        "run": str(run.directory),
        "method": type(loaded.config.method).__name__,
        "parameters": loaded.num_parameters,
        "dtype": loaded.dtype,
        "training_data": run.facts()["training_data"],
    }


def _command(run: Run, directory: Path, inputs: dict[str, Any], shard_sentences: int) -> str:
    words = ["python", "-m", "nat_ar", "distill", run.directory, "--directory", directory]
    words += ["--decoding", inputs["decoding"], "--choose", inputs["choose"]]
    words += ["--checkpoint", inputs["checkpoint_step"], "--shard-sentences", shard_sentences]
    if inputs["max_sentences"] is not None:
        words += ["--max-sentences", inputs["max_sentences"]]
    return shlex.join(map(str, words))


def _warnings(card: dict[str, Any]) -> list[str]:
    warnings = metrics.warnings_for(
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


def _write_json(path: Path, value: dict[str, Any]) -> None:
    files.write_text(path, json.dumps(files.signed(value), ensure_ascii=False))


def _read_json(path: Path) -> dict[str, Any]:
    return files.read_json(path, remedy="remove it and distil again", is_signed=True)


def _say(message: str) -> None:
    if sys.stderr.isatty():
        tqdm.tqdm.write(message, file=sys.stderr)

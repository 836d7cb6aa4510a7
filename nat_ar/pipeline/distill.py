"""The teacher's translations of the training source, as a prepared directory for students.

Sequence-level knowledge distillation (Kim & Rush 2016, arXiv:1606.07947): a teacher's translations vary less than
those of a corpus, and are easier to learn for a non-autoregressive student (Zhou et al. 2020, arXiv:1911.02727).
Sentence i of the result is the translation of sentence i; validation and tests stay raw. Finished shards are kept
beside the directory: the same call after an interruption continues at the first missing one, and several processes may
make them (runtime/parts.py). The manifest's "distilled" is the data card: who translated, how well, and what that did
to the data."""

import contextlib
import dataclasses
import functools
import shutil
from pathlib import Path
from typing import Any

from nat_ar.config_json import ConfigError
from nat_ar.data import arrays, distilled, references
from nat_ar.data.arrays import PreparedData
from nat_ar.evaluation import data_card
from nat_ar.experiment import provenance
from nat_ar.experiment.run import Run, TrainedModel
from nat_ar.experiment.translators import open_translator
from nat_ar.pipeline import shards
from nat_ar.pipeline import word_distributions as distributions
from nat_ar.pipeline.shards import Choose, Spoilt
from nat_ar.runtime import bars, devices, distributed, files, parts
from nat_ar.runtime.parts import Part
from nat_ar.translation import decodings
from nat_ar.translation.translator import BATCH_TOKENS, Translator


def distill(
    run: Run | str | Path,
    directory: str | Path | None = None,
    *,
    decoding: Any | str | None = None,
    choose: Choose = "first",
    checkpoint: str = "best",
    shard_sentences: int = 4096,
    max_sentences: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    word_distributions: int | None = None,
    spoilt: Spoilt = "drop",
    part: str | None = None,
) -> dict[str, Any] | None:
    """Makes the distilled directory, goes on making it, or finds it made, and returns its manifest. With a
    `part`, "2/8", only the shards of it are made, and the directory once those of all parts are there; until then None
    is returned. With
    `word_distributions`, so many of the teacher's most probable words at each place of the targets are kept. `spoilt`:
    what becomes of pairs whose source lost its end or whose translation reached its length limit, so that half of one
    would be paired with the whole of the other: dropped, paired with the raw target, or kept. Processes that compute
    together (runtime.distributed), without a part, all call it alike: they share the sentences of each shard, the first
    one writes, and all return the manifest.

    Raises ValueError where `directory` or the shards beside it come from other inputs, with the differences;
    ConfigError where shards of other parts are missing and no part is given, and InUseError where another process makes
    the same."""
    for name, value in (
        ("shard_sentences", shard_sentences),
        ("max_sentences", max_sentences),
        ("batch_tokens", batch_tokens),
        ("word_distributions", word_distributions),
    ):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    own = None if part is None else Part.parse(part)
    run = Run.of(run)
    directory = run.directory / "distilled" if directory is None else Path(directory)
    shards_directory = directory.with_name(directory.name + ".shards")
    config = run.config()
    chosen = _choice(config.method, decoding, choose)
    shown, rescorer = chosen.text, run.rescorer(chosen.decoding)
    if word_distributions is not None and config.method.family == "NAT":
        raise ConfigError(
            f"word_distributions need an autoregressive teacher, got {run.directory}, which is "
            f"{type(config.method).__name__}; leave them out"
        )
    data = _raw_data(run, run.find(config.data.directory))
    tokenizer = config.data.corpus.tokenizer
    references.require(tokenizer)
    pinned = distributed.from_first(lambda: run.pinned(checkpoint))
    inputs = {
        "format": shards.FORMAT,
        "config_hash": run.config_hash,
        "checkpoint_step": run.resolve(pinned),
        "parameters_hash": run.parameters_hash(pinned),
        "rescorer": rescorer and rescorer.parameters_hash(),
        "decoding": shown,
        "choose": choose,
        "base_hash": data.hash,
        "max_sentences": max_sentences,
        "spoilt": spoilt,
    }
    kept = {**inputs, "word_distributions": word_distributions}
    distributed.require_same(kept, "all processes distil the same")

    def is_joined() -> bool:
        """By this or another process."""
        return distributed.from_first(lambda: (directory / arrays.MANIFEST).exists())

    def made_before() -> dict[str, Any]:
        return distributed.from_first(lambda: _made_before(directory, kept, type(config.method)))

    if is_joined():
        manifest = made_before()
        if distributed.is_first():
            shutil.rmtree(shards_directory, ignore_errors=True)
        return manifest
    distributed.from_first(
        lambda: files.check_new_directory(directory, but=f"no {arrays.MANIFEST}")
    )
    if max_sentences is not None:
        data = data.with_training_pairs(max_sentences)
    recorded = {**inputs, "shard_sentences": shard_sentences}
    work = shards.Work(shards_directory, data, choose, shard_sentences, tokenizer)
    at_shards = functools.partial(shards.directory, shards_directory, recorded, type(config.method))

    @functools.cache
    def opened() -> tuple[TrainedModel, Translator]:
        loaded, teacher = open_translator(run, shown, pinned)
        teacher.batch_tokens = batch_tokens
        teacher.devices, teacher.is_shared = devices.local(), True
        return loaded, teacher

    def join() -> dict[str, Any]:
        with distributed.held_by_first(at_shards()):
            if is_joined():
                return made_before()
            distributed.from_first(
                lambda: parts.require_all(shards_directory, work.missing(), "pieces")
            )
            work.make(lambda: opened()[1], title=config.name)
            return distributed.from_first(
                lambda: _write(run, opened()[0], work, directory, kept, pinned, batch_tokens)
            )

    if own is None:
        return join()
    with at_shards(own):
        if not is_joined():
            work.make(lambda: opened()[1], own, title=config.name)
    missing = work.missing()
    if missing and not is_joined():
        bars.say(
            f"nat-ar: part {own} is made; what is missing is of --part {parts.named(missing, own.of)}"
        )
        return None
    with contextlib.suppress(files.InUseError):
        return join()
    bars.say(f"nat-ar: part {own} is made; another process joins them all")
    return None


def _write(
    run: Run,
    loaded: TrainedModel,
    work: shards.Work,
    directory: Path,
    kept: dict[str, Any],
    checkpoint: str | int,
    batch_tokens: int,
) -> dict[str, Any]:
    """The directory of all shards, and its manifest with the card. `kept`: what the shards were made of."""
    data, tokenizer, spoilt = work.data, work.tokenizer, kept["spoilt"]
    number = kept["word_distributions"]
    found = work.read()
    if found.empty == len(found):
        raise ValueError(
            f"all {len(found)} translations of {run.directory} are empty; train the teacher longer"
        )
    card = {
        **kept,
        "teacher": provenance.identity(run, loaded),
        "validation_bleu": work.validation(),
        **data_card.quality(data, found, tokenizer),
        "sentences": len(found),
        "empty": found.empty,
        "cut": found.cut,
        "shortened": found.shortened,
        "seconds": round(found.seconds, 2),
        "sentences_per_second": round(len(found) / found.seconds, 2),
        "device": ", ".join(sorted(found.devices)),
        "date": provenance.now(),
        "command": provenance.command_of(
            "distill",
            run.directory,
            directory=directory,
            decoding=kept["decoding"],
            choose=work.choose,
            checkpoint=checkpoint,
            shard_sentences=work.shard_sentences,
            max_sentences=kept["max_sentences"],
            word_distributions=number,
            spoilt=spoilt,
        ),
    }
    card["warnings"] = data_card.warnings_of(card)
    annotate = None
    if number is not None:
        annotate = functools.partial(
            distributions.write,
            teacher=loaded.model,
            number=number,
            vocabulary_size=data.vocabulary.target_size,
            batch_tokens=batch_tokens,
        )
    return distilled.write(
        data,
        directory,
        found,
        card,
        spoilt=set() if spoilt == "keep" else found.spoilt,
        is_raw=spoilt == "raw",
        annotate=annotate,
    )


def _choice(method: Any, text: Any | str | None, choose: Choose) -> decodings.Choice:
    """The decoding in full; to choose from the beam, the search must hand the whole beam back."""
    chosen = decodings.choose(method, text)
    if choose == "best_bleu":
        beam = chosen.decoding
        if not {"size", "n_best"} <= {field.name for field in dataclasses.fields(beam)}:
            raise ValueError(
                f"choose best_bleu needs a beam to choose from, got {chosen.text}; use Beam()"
            )
        chosen = dataclasses.replace(chosen, decoding=decodings.with_n_best(beam, beam.size))
    return chosen


def _raw_data(run: Run, directory: Path) -> PreparedData:
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


def _made_before(directory: Path, inputs: dict[str, Any], method: type) -> dict[str, Any]:
    """The manifest of a directory that was distilled from the same inputs."""
    manifest = PreparedData.load(directory).manifest
    if manifest["training_data"] != "distilled":
        raise ValueError(
            f"{directory} holds {manifest['training_data']} data; name another --directory"
        )
    old = {key: manifest["distilled"].get(key) for key in inputs}
    shards.check_inputs(directory, old, inputs, method)
    return manifest

"""A prepared directory (arrays.py) whose training targets are a teacher's translations."""

import dataclasses
import functools
import hashlib
import shutil
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from nat_ar.data import arrays, prepare, vocabulary
from nat_ar.data.arrays import PreparedData, Split, TextWriter
from nat_ar.data.pair import Pair, Report
from nat_ar.data.progress import Progress, timed
from nat_ar.data.text_lines import Texts
from nat_ar.data.word_distributions import Annotate


def write(
    base: PreparedData,
    directory: Path | str,
    targets: Texts,
    card: dict[str, Any],
    *,
    alignments: str | None = None,
    spoilt: Collection[int] = (),
    is_raw: bool = False,
    annotate: Annotate | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """A prepared directory like `base` whose training targets are a teacher's translations.

    `targets[i]` translates training source i of `base`; they are read twice, and need not be in memory. Same
    vocabulary, same filters; fertilities are computed anew with the same aligner, or read from the Pharaoh file
    `alignments`, which has a line for each pair that was kept. Validation and test are copied: they stay raw. Pairs
    with an empty translation are dropped and counted. `spoilt`: rows whose translation is not used; their target is "",
    or, with `is_raw`, that of the corpus. `annotate` may write more about the training split. `card` describes the
    teacher; the manifest has it under "distilled".

    Returns the manifest; at once if the directory already holds these translations of this base."""
    directory = Path(directory)
    train = base.split("train")
    if len(targets) != len(train):
        raise ValueError(
            f"{len(targets)} translations for {len(train)} training sources of {base.directory}: "
            "expected one for each, in order"
        )
    used = functools.partial(_used, train, targets, spoilt, is_raw)
    origin = {"base_hash": base.hash, "translations_hash": _hash_of_texts(used())}
    if (directory / arrays.MANIFEST).exists():
        manifest = PreparedData.load(directory).manifest
        if any(manifest.get(field) != value for field, value in origin.items()):
            raise ValueError(
                f"{directory} holds other prepared data; name a new directory or remove this one"
            )
        return manifest
    config = dataclasses.replace(
        prepare.config_of(base), directory=str(directory), alignments=alignments
    )
    report = Report(provenance=base.manifest["report"]["provenance"])
    seconds: dict[str, float] = {}
    show = Progress(quiet)
    words = base.vocabulary
    with arrays.new_directory(directory) as partial:
        for name in ("vocabulary", *(name for name in base.splits if name != "train")):
            shutil.copytree(base.directory / name, partial / name)
        with timed(seconds, "encode"):
            spool = partial / "spool"
            texts = TextWriter(spool)
            for pair in _distilled_pairs(train, used(), spoilt, is_raw, report):
                texts.append(pair)
            texts.close()
            prepare.write_split(partial / "train", spool, texts.pairs, words, config, report, show)
            shutil.rmtree(spool)
        with timed(seconds, "align"):
            prepare.write_fertilities(config, partial, words, report, show)
        if annotate is not None:
            with timed(seconds, "annotate"):
                written = Split.load(partial / "train")
                annotate(written.directory, written.source, written.target)
        return arrays.write_manifest(
            partial,
            {
                "training_data": "distilled",
                "distilled": card,
                **origin,
                **prepare.description(config, partial, list(base.splits), words, report, seconds),
            },
        )


def _used(train: Split, targets: Texts, spoilt: Collection[int], is_raw: bool) -> Iterator[str]:
    """The target of each pair, as long as it has one."""
    raw = train.lines("target")
    for row, target in enumerate(targets):
        if row in spoilt:
            yield raw[row] if is_raw else ""
        else:
            yield target


def _distilled_pairs(
    train: Split, targets: Iterable[str], spoilt: Collection[int], is_raw: bool, report: Report
) -> Iterator[Pair]:
    sources, domains = train.lines("source"), train.lines("domains")
    pairs = zip(sources, targets, domains, train.lines("documents"), strict=True)
    for row, (source, target, domain, document) in enumerate(pairs):
        if row in spoilt and is_raw:
            report.count("train: raw target, spoilt translation", source[:80])
        report.count("train: read")
        target = vocabulary.one_line(target)
        if target.strip():
            yield Pair(source, target, domain, document)
        else:
            reason = "spoilt translation" if row in spoilt else "empty translation"
            report.drop("train", reason, source[:80])


def _hash_of_texts(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\n")
    return digest.hexdigest()

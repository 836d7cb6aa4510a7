"""Distilling with a small run, whose model is mostly replaced by one that knows the language: capitals."""

import dataclasses
import random
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from nat_ar.commands import distill as command
from nat_ar.commands.distill import Distill
from nat_ar.config_json import ConfigError
from nat_ar.data import distilled, loader, prepare, word_distributions
from nat_ar.data.alignment.model import AlignerConfig
from nat_ar.data.arrays import PreparedData
from nat_ar.data.prepare import DataConfig
from nat_ar.data.text_files import TextFiles
from nat_ar.data.vocabulary import VocabularyConfig
from nat_ar.evaluation import data_card
from nat_ar.experiment.config import ExperimentConfig
from nat_ar.experiment.run import Run
from nat_ar.experiment.translators import open_translator
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.pipeline import distill as pipeline
from nat_ar.pipeline import shards
from nat_ar.pipeline.distill import distill
from nat_ar.search import limits
from nat_ar.special_tokens import EOS
from nat_ar.translation.translation import Translation
from nat_ar.translation.translator import Translator
from toys import LETTERS, TINY

Answer = Callable[[str], Translation]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, start_run: Callable[..., Run]) -> Run:
    """A run with random parameters, its data 60 pairs such as "b a d" and "B A D", of one to five
    letters: 36 for training, 12 for validation, 12 for the test."""
    directory = tmp_path_factory.mktemp("teacher")
    generator = random.Random(0)
    rows = [" ".join(generator.choices(LETTERS, k=1 + i % 5)) for i in range(60)]
    paths = {}
    for name, part in (("train", rows[:36]), ("validation", rows[36:48]), ("test", rows[48:])):
        path = directory / f"{name}.tsv"
        path.write_text("".join(f"{row}\t{row.upper()}\n" for row in part), "utf-8")
        paths[name] = (str(path),)
    data_config = DataConfig(
        directory=str(directory / "data"),
        corpus=TextFiles(**paths),
        vocabulary=VocabularyConfig(size=24, byte_fallback=False),
        aligner=AlignerConfig(iterations=2),
        remove_overlap=False,
    )
    prepare.prepare(data_config, quiet=True)
    data = PreparedData.load(data_config.directory)
    config = ExperimentConfig("ar", data_config, Autoregressive(transformer=TINY))
    return start_run(Run(directory / "run"), config, data)


def raw(teacher: Run) -> PreparedData:
    return PreparedData.load(teacher.config().data.directory)


def of_texts(*texts: str) -> Translation:
    """An n-best list whose tokens are words."""
    return Translation(list(texts), [0.0] * len(texts), [[9] * len(t.split()) for t in texts], 1)


def right(source: str) -> Translation:
    return of_texts(source.upper())


class Replaced:
    """Translator.translate by a function of the sentence; dies at call number `dies_at`, from 1."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: Answer) -> None:
        self.answer, self.calls, self.dies_at = answer, [], 0
        monkeypatch.setattr(Translator, "translate", lambda _, *words, **more: self(*words, **more))

    def __call__(
        self, sentences: Sequence[str], *, title: str = "", is_quiet: bool = False
    ) -> list[Translation]:
        self.calls.append(len(sentences))
        if len(self.calls) == self.dies_at:
            raise KeyboardInterrupt
        return [self.answer(sentence) for sentence in sentences]


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> Replaced:
    return Replaced(monkeypatch, right)


def test_targets_stand_where_their_sources_do(
    teacher: Run, replaced: Replaced, tmp_path: Path
) -> None:
    distill(teacher, tmp_path / "d", shard_sentences=7)
    assert replaced.calls == [12, 7, 7, 7, 7, 7, 1]  # validation, then 36 training sources
    train = PreparedData.load(tmp_path / "d").split("train")
    assert train.source_text == raw(teacher).split("train").source_text
    assert train.target_text == [right(source).texts[0] for source in train.source_text]


@pytest.mark.slow
def test_the_model_itself_translates_the_first_sentences(
    teacher: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened = open_translator(teacher, "Sampling(seed=5)", "best")
    monkeypatch.setattr(pipeline, "open_translator", lambda *_: opened)  # compile once
    distill(
        teacher, tmp_path / "d", decoding="Sampling(seed=5)", shard_sentences=2, max_sentences=4
    )
    distilled = PreparedData.load(tmp_path / "d").split("train")
    sources = raw(teacher).split("train").source_text[:4]
    texts = [translation.texts[0] for translation in opened[1].translate(sources)]
    expected = [pair for pair in zip(sources, texts, strict=True) if pair[1].strip()]
    assert expected
    assert list(zip(distilled.source_text, distilled.target_text, strict=True)) == expected


def test_a_killed_run_goes_on_to_the_same_bytes(
    teacher: Run, replaced: Replaced, tmp_path: Path
) -> None:
    straight = distill(teacher, tmp_path / "straight", shard_sentences=10)
    replaced.calls, replaced.dies_at = [], 4  # validation, two shards, and in the third
    with pytest.raises(KeyboardInterrupt):
        distill(teacher, tmp_path / "killed", shard_sentences=10)
    assert not (tmp_path / "killed").exists()
    replaced.calls, replaced.dies_at = [], 0
    resumed = distill(teacher, tmp_path / "killed", shard_sentences=10)
    assert replaced.calls == [10, 6]  # the third shard and the last
    assert resumed["data_hash"] == straight["data_hash"]
    assert resumed["files"] == straight["files"]
    assert not list(tmp_path.glob("*.shards"))


def test_a_finished_directory_is_found_and_one_of_other_inputs_refused(
    teacher: Run, replaced: Replaced, tmp_path: Path
) -> None:
    first = distill(teacher, tmp_path / "d", decoding="Greedy()")
    replaced.dies_at = len(replaced.calls) + 1
    assert distill(teacher, tmp_path / "d", decoding="Greedy") == first
    with pytest.raises(ValueError, match=r'other inputs \(decoding: "Greedy\(\)" -> "Beam\(size=2'):
        distill(teacher, tmp_path / "d", decoding="Beam(size=2)")
    with pytest.raises(ValueError, match="max_sentences: null -> 9"):
        distill(teacher, tmp_path / "d", decoding="Greedy()", max_sentences=9)


def test_shards_of_other_inputs_are_refused(
    teacher: Run, replaced: Replaced, tmp_path: Path
) -> None:
    replaced.dies_at = 3
    with pytest.raises(KeyboardInterrupt):
        distill(teacher, tmp_path / "d", decoding="Greedy()", shard_sentences=10)
    for changed, message in (
        ({"decoding": "Sampling()"}, r"d\.shards .*decoding: .*Greedy.* -> .*Sampling"),
        ({"shard_sentences": 5}, "shard_sentences: 10 -> 5"),
    ):
        settings = {"decoding": "Greedy()", "shard_sentences": 10, **changed}
        with pytest.raises(ValueError, match=message):
            distill(teacher, tmp_path / "d", **settings)


def test_two_teachers_do_not_mix_in_one_distillation(
    teacher: Run, replaced: Replaced, tmp_path: Path, train_anew
) -> None:
    """The second is trained in the directory of the first: same path, config and step."""
    shutil.copytree(teacher.directory, tmp_path / "ar")
    run, message = Run(tmp_path / "ar"), 'parameters_hash: "[0-9a-f]+" -> "[0-9a-f]+"'
    distill(run, tmp_path / "made", shard_sentences=10)
    replaced.dies_at = len(replaced.calls) + 3
    with pytest.raises(KeyboardInterrupt):
        distill(run, tmp_path / "d", shard_sentences=10)
    replaced.dies_at = 0
    train_anew(run)
    with pytest.raises(ValueError, match=rf"d\.shards was distilled from other .*{message}"):
        distill(run, tmp_path / "d", shard_sentences=10)
    with pytest.raises(ValueError, match=message):
        distill(run, tmp_path / "made")


@pytest.mark.parametrize("version", ["of today", "early"])
def test_shards_that_know_no_parameters_are_taken_up(
    teacher: Run, replaced: Replaced, tmp_path: Path, version: str
) -> None:
    replaced.dies_at = 3
    with pytest.raises(KeyboardInterrupt):
        distill(teacher, tmp_path / "d", shard_sentences=10)
    inputs = shards.read_json(tmp_path / "d.shards" / "inputs.json")
    assert inputs["parameters_hash"] == teacher.parameters_hash()
    if version == "early":
        early = {key: inputs[key] for key in inputs if key not in shards.LATER_INPUTS}
        shards.write_json(tmp_path / "d.shards" / "inputs.json", early)
    replaced.dies_at = 0
    manifest = distill(teacher, tmp_path / "d", shard_sentences=10)
    assert manifest["distilled"]["teacher"]["parameters_hash"] == teacher.parameters_hash()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("000000010.json", r'\{"first"'),
        ("000000010.json", r"\d,"),
        ("000000010.json", '"texts"'),
        ("000000010.json", r'"texts": \["[A-H]'),
        ("000000010.json", '"cut"'),
        ("000000010.json", '"device": ".'),
        ("000000010.json", '"checksum"'),
        ("000000010.json", r'"\}'),
        ("validation.json", '"score"'),
        ("validation.json", '"checksum"'),
        ("inputs.json", '"decoding"'),
        ("inputs.json", '"checksum"'),
    ],
)
def test_a_changed_shard_is_noticed_wherever_it_was_changed(
    teacher: Run,
    replaced: Replaced,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    part: str,
) -> None:
    """A bit of the last byte that the pattern `part` matches."""

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(distilled, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            distill(teacher, tmp_path / "d", shard_sentences=10)
    path = tmp_path / "d.shards" / name
    content = bytearray(path.read_bytes())
    matched = re.search(part.encode(), content)
    assert matched
    content[matched.end() - 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"d\.shards/{name} cannot be used: .*; remove it and"):
        distill(teacher, tmp_path / "d", shard_sentences=10)
    path.unlink()
    if name != "inputs.json":
        assert distill(teacher, tmp_path / "d", shard_sentences=10)["training_data"] == "distilled"


def test_best_bleu_takes_the_translation_nearest_to_the_reference() -> None:
    n_best = of_texts("das Haus war sehr alt", "das Haus ist sehr alt", "Haus", "das Haus ist alt")
    assert shards.best_of(n_best, "das Haus ist alt", "13a") == 3
    assert shards.best_of(n_best, "das Haus war sehr alt und klein", "13a") == 0
    assert shards.best_of(of_texts("a", "b"), "das Haus ist alt", "13a") == 0  # equal: the first


def test_best_bleu_cuts_words_by_the_tokenizer_of_the_language() -> None:
    """By 13a every Chinese translation in the beam has BLEU 0, and the first is taken."""
    n_best = of_texts("那是旧的", "这座房子很旧。", "这房子")
    assert shards.best_of(n_best, "这座房子是旧的。", "13a") == 0
    assert shards.best_of(n_best, "这座房子是旧的。", "zh") == 1


def test_the_card_cuts_words_by_the_tokenizer_of_the_corpus(
    teacher: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, start_run
) -> None:
    """Translations without spaces: one word each by 13a, the references' letters by char."""
    Replaced(monkeypatch, lambda source: of_texts(source.upper().replace(" ", "")))
    old = teacher.config()
    corpus = dataclasses.replace(old.data.corpus, bleu_tokenizer="char")
    config = dataclasses.replace(old, data=dataclasses.replace(old.data, corpus=corpus))
    run = start_run(Run(tmp_path / "run"), config, raw(teacher))
    card = distill(run, tmp_path / "d")["distilled"]
    for bleu in (card["train_bleu"], card["validation_bleu"]):
        assert bleu["score"] == pytest.approx(100)
        assert "tok:char" in bleu["signature"]
    assert card["length_ratio"] == 1


def test_best_bleu_asks_for_the_whole_beam_and_leaves_validation_to_the_first(
    teacher: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Replaced(monkeypatch, lambda source: of_texts("H H H H H H", *right(source).texts))
    settings = {"decoding": "Beam(size=2)", "choose": "best_bleu"}
    card = distill(teacher, tmp_path / "d", **settings)["distilled"]
    assert card["decoding"] == "Beam(size=2, n_best=2)"
    assert card["train_bleu"]["score"] == pytest.approx(100)
    assert card["validation_bleu"]["score"] < 30
    with pytest.raises(ValueError, match="needs a beam"):
        distill(teacher, tmp_path / "greedy", decoding="Greedy()", choose="best_bleu")


def test_validation_and_tests_stay_raw_and_fertilities_fit_the_new_targets(
    teacher: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Replaced(monkeypatch, lambda source: of_texts("A " + right(source).texts[0]))
    manifest = distill(teacher, tmp_path / "d")
    assert manifest["training_data"] == "distilled"
    base = raw(teacher)
    changed = {
        name
        for name, file in base.manifest["files"].items()
        if manifest["files"][name]["sha256"] != file["sha256"]
    }
    train = PreparedData.load(tmp_path / "d").split("train")
    assert {f"train/{name}" for name in ("target.txt", "target.values.npy")} <= changed
    follow = ("train/target", "train/fertilities", "train/order.")  # the order by length
    assert all(name.startswith(follow) for name in changed)
    assert train.fertilities is not None
    sums = [train.fertilities[row].sum() for row in range(len(train))]
    np.testing.assert_array_equal(sums, train.target.lengths)
    np.testing.assert_array_equal(train.fertilities.lengths, train.source.lengths)


def test_the_card_of_a_perfect_teacher(
    teacher: Run, replaced: Replaced, capsys: pytest.CaptureFixture[str]
) -> None:
    command.run(Distill(str(teacher.directory), decoding="Greedy()"))
    card = PreparedData.load(teacher.directory / "distilled").manifest["distilled"]
    assert card["validation_bleu"]["score"] == pytest.approx(100)
    assert card["validation_bleu"]["sentences"] == 12
    assert card["train_bleu"]["sentences"] == card["aligned_sentences"] == card["sentences"] == 36
    assert "tok:13a" in card["train_bleu"]["signature"]
    assert card["length_ratio"] == 1.0
    assert card["faithfulness"] == pytest.approx(0.0, abs=1e-12)
    assert card["raw"] == card["distilled"]
    assert (card["empty"], card["cut"], card["shortened"]) == (0, 0, 0)
    assert card["checkpoint_step"] == 0
    assert card["teacher"]["name"] == "ar"
    assert card["base_hash"] == raw(teacher).hash
    assert "--decoding 'Greedy()' --choose first --checkpoint 0" in card["command"]
    printed = capsys.readouterr().out
    assert "teacher BLEU on validation 100.00" in printed
    assert "36 sentences in" in printed


def test_empty_cut_and_shortened_translations_are_counted(
    teacher: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    train = raw(teacher).split("train")
    lengths = dict(zip(train.source_text, train.source.lengths.tolist(), strict=True))
    empty, cut, shortened = (train.source_text[row] for row in (5, 6, 7))

    def answer(source: str) -> Translation:
        if source == empty:
            return of_texts("")
        if source == cut:
            return of_texts(" ".join(["A"] * limits.length_limit(lengths[source] + 1)))
        return dataclasses.replace(right(source), is_shortened=source == shortened)

    Replaced(monkeypatch, answer)
    manifest = distill(teacher, tmp_path / "d", shard_sentences=6, spoilt="keep")
    card = manifest["distilled"]
    expected = [train.source_text.count(source) for source in (empty, cut, shortened)]
    assert [card["empty"], card["cut"], card["shortened"]] == expected
    assert manifest["splits"]["train"]["sentences"] == 36 - expected[0]
    assert card["aligned_sentences"] == 36 - expected[0]
    assert card["distilled"]["repetition"] > card["raw"]["repetition"]
    text = data_card.summary(manifest)
    assert f"{expected[0]} empty, {expected[1]} cut" in text
    assert f"warning: {expected[0]} of 36 translations are empty" in text


@pytest.mark.parametrize("spoilt", ["drop", "raw"])
def test_half_a_translation_is_not_paired_with_a_whole_source(
    teacher: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, spoilt: shards.Spoilt
) -> None:
    """Nor a whole translation with a source that was cut before it was translated."""
    train = raw(teacher).split("train")
    lengths = dict(zip(train.source_text, train.source.lengths.tolist(), strict=True))
    cut, shortened = (train.source_text[row] for row in (6, 7))

    def answer(source: str) -> Translation:
        if source == cut:
            return of_texts(" ".join(["A"] * limits.length_limit(lengths[source] + 1)))
        return dataclasses.replace(of_texts("H H"), is_shortened=source == shortened)

    Replaced(monkeypatch, answer)
    manifest = distill(teacher, tmp_path / "d", shard_sentences=6, spoilt=spoilt)
    number = train.source_text.count(cut) + train.source_text.count(shortened)
    counts, new = manifest["report"]["counts"], PreparedData.load(tmp_path / "d").split("train")
    pairs = dict(zip(new.source_text, new.target_text, strict=True))
    if spoilt == "drop":
        assert counts["train: dropped, spoilt translation"] == number
        assert set(pairs) == set(train.source_text) - {cut, shortened}
    else:
        assert counts["train: raw target, spoilt translation"] == number
        assert pairs[cut] == cut.upper()
        assert pairs[shortened] == shortened.upper()
    assert {pairs[source] for source in pairs.keys() - {cut, shortened}} == {"H H"}
    assert f"--spoilt {spoilt}" in manifest["distilled"]["command"]
    other: shards.Spoilt = "keep"
    with pytest.raises(
        ValueError, match=f'distilled from other inputs .*spoilt: "{spoilt}" -> "keep"'
    ):
        distill(teacher, tmp_path / "d", shard_sentences=6, spoilt=other)


def test_impossible_requests_are_refused_before_any_work(
    teacher: Run, replaced: Replaced, tmp_path: Path
) -> None:
    replaced.dies_at = 1
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds files"):
        distill(teacher, tmp_path / "full")
    with pytest.raises(ValueError, match="holds raw data"):
        distill(teacher, raw(teacher).directory)
    with pytest.raises(ValueError, match="shard_sentences must be at least 1, got 0"):
        distill(teacher, tmp_path / "d", shard_sentences=0)
    with pytest.raises(ValueError, match="expected a decoding of Autoregressive"):
        distill(teacher, tmp_path / "d", decoding="Argmax()")
    assert not (tmp_path / "d.shards").exists()


def test_a_teacher_that_says_nothing_is_no_teacher(
    teacher: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Replaced(monkeypatch, lambda source: of_texts(""))
    with pytest.raises(ValueError, match=r"all 36 translations of .* are empty"):
        distill(teacher, tmp_path / "d")


def test_the_teachers_likely_words_stand_at_their_places(
    teacher: Run, replaced: Replaced, tmp_path: Path
) -> None:
    """As the teacher sees each pair by itself."""
    manifest = distill(teacher, tmp_path / "d", word_distributions=3)
    assert manifest["distilled"]["word_distributions"] == 3
    train = PreparedData.load(tmp_path / "d").split("train")
    kept = train.distributions
    assert kept is not None
    assert kept.tokens.shape == kept.nats.shape == (train.target.offsets[-1] + len(train), 3)
    model = teacher.load().model
    logits = jax.jit(nnx.merge(model.graphdef, model.params).logits)
    for row in (0, 7, 35):
        source, target = (
            loader.pad_rows(side, np.array([row]), 16, end=EOS)
            for side in (train.source, train.target)
        )
        length = len(train.target[row]) + 1
        nats = np.asarray(jax.nn.log_softmax(logits(source, target)))[0, :length]
        begin, end = word_distributions.places_of(train.target, row)
        assert end - begin == length
        expected = np.sort(nats, axis=1)[:, : -3 - 1 : -1]
        np.testing.assert_allclose(kept.nats[begin:end], expected, rtol=2e-3)
        own = np.take_along_axis(nats, kept.tokens[begin:end].astype(np.int64), axis=1)
        np.testing.assert_allclose(own, expected, rtol=1e-5)
    assert raw(teacher).split("train").distributions is None


def test_other_word_distributions_are_other_data(
    teacher: Run, replaced: Replaced, tmp_path: Path
) -> None:
    distill(teacher, tmp_path / "d")
    with pytest.raises(ValueError, match=r"other inputs \(word_distributions: null -> 3\)"):
        distill(teacher, tmp_path / "d", word_distributions=3)
    with pytest.raises(ValueError, match="word_distributions must be at least 1, got 0"):
        distill(teacher, tmp_path / "e", word_distributions=0)


def test_interrupted_translations_serve_with_and_without_word_distributions(
    teacher: Run, replaced: Replaced, tmp_path: Path
) -> None:
    replaced.dies_at = 4
    with pytest.raises(KeyboardInterrupt):
        distill(teacher, tmp_path / "d", shard_sentences=10)
    replaced.calls, replaced.dies_at = [], 0
    distill(teacher, tmp_path / "d", shard_sentences=10, word_distributions=2)
    assert replaced.calls == [10, 6]


def test_shards_in_which_nothing_is_translated_stand_in_no_ones_way(
    teacher: Run, replaced: Replaced, tmp_path: Path
) -> None:
    """Once, what failed before its first shard refused the mended command."""
    replaced.dies_at = 1
    with pytest.raises(KeyboardInterrupt):
        distill(teacher, tmp_path / "d", decoding="Beam(size=4)")
    replaced.dies_at = 0
    manifest = distill(teacher, tmp_path / "d", decoding="Greedy()")
    assert manifest["distilled"]["decoding"] == "Greedy()"


def test_word_distributions_need_a_teacher_that_has_some(tiny_runs, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"need an autoregressive teacher, got .* LengthNat"):
        distill(tiny_runs.length_nat, tmp_path / "d", word_distributions=4)
    assert list(tmp_path.iterdir()) == []

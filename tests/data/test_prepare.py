import dataclasses
import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nat_ar import config_json
from nat_ar.data import arrays, corpus_code, fertilities, prepare, vocabulary
from nat_ar.data.alignment import aligner, links
from nat_ar.data.alignment.model import AlignerConfig
from nat_ar.data.arrays import PreparedData, Split
from nat_ar.data.distilled import write as write_distilled
from nat_ar.data.hold_out import HoldOut
from nat_ar.data.prepare import DataConfig
from nat_ar.data.progress import Progress
from nat_ar.data.text_files import NamedTest, TextFiles
from nat_ar.data.toy.corpus import ToyCorpus
from nat_ar.data.vocabulary import VocabularyConfig
from nat_ar.runtime import files

ADJECTIVES = ["small klein", "old alt", "new neu", "red rot", "long lang", "young jung"]
NOUNS = ["dog Hund", "cat Katze", "house Haus", "train Zug", "friend Freund", "word Wort"]
VERBS = ["sees sieht", "finds findet", "likes mag", "knows kennt", "wants will", "takes nimmt"]
SENTENCES = [
    tuple(" ".join(word.split()[side] for word in words) for side in (0, 1))
    for words in itertools.product(ADJECTIVES, NOUNS, VERBS, NOUNS)
]
"""1296 pairs of four words, word for word: "small dog sees cat" and "klein Hund sieht Katze"."""


def write_table(path: Path, pairs: list[tuple[str, str]]) -> tuple[str]:
    path.write_text("".join(f"{source}\t{target}\n" for source, target in pairs), "utf-8")
    return (str(path),)


@pytest.fixture(scope="session")
def data_config(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """600 training pairs, 20 for validation, 30 for the test; all distinct."""
    directory = tmp_path_factory.mktemp("prepared")
    sentences = SENTENCES[::2]
    return DataConfig(
        directory=str(directory / "data"),
        corpus=TextFiles(
            train=write_table(directory / "train.tsv", sentences[48:]),
            validation=write_table(directory / "validation.tsv", sentences[:20]),
            test=write_table(directory / "test.tsv", sentences[20:48]),
            more_tests=(NamedTest("far", write_table(directory / "far.tsv", [("so", "so")])),),
            bleu_tokenizer="13a",
        ),
        vocabulary=VocabularyConfig(size=310),
    )


@pytest.fixture(scope="session")
def prepared(data_config: DataConfig) -> Path:
    """Read it, copy it, never write into it."""
    prepare.prepare(data_config)
    return Path(data_config.directory)


def small(directory: Path, train: list[tuple[str, str]], **fields: object) -> DataConfig:
    """Trains on `train`, validates on one pair, aligns nothing, unless `fields` say otherwise."""
    corpus = TextFiles(
        train=write_table(directory / "train.tsv", train),
        validation=write_table(directory / "validation.tsv", [("hello there", "hallo du")]),
        bleu_tokenizer="13a",
    )
    defaults = {"vocabulary": VocabularyConfig(size=300), "aligner": None}
    return DataConfig(str(directory / "data"), corpus, **{**defaults, **fields})


def test_texts_tokens_and_vocabulary_agree(prepared: Path) -> None:
    data = PreparedData.load(prepared)
    assert data.training_data == "raw"
    assert {name: len(data.split(name)) for name in data.splits} == {
        "train": 600,
        "validation": 20,
        "test": 28,
        "test_far": 1,
    }
    for name in data.splits:
        split = data.split(name)
        assert data.vocabulary.decode_target(split.source[i] for i in range(len(split))) == (
            split.source_text
        )
        assert data.vocabulary.decode_target(split.target[i] for i in range(len(split))) == (
            split.target_text
        )
        assert split.source.values.dtype == np.uint16
        assert split.domains == split.documents == [""] * len(split)
    assert data.split("test").source_text[0] == SENTENCES[40][0]
    assert data.split("test_far").target_text == ["so"]


def test_fertilities_are_there_where_they_are_trained_on(prepared: Path) -> None:
    data = PreparedData.load(prepared)
    for name in ("train", "validation"):
        split = data.split(name)
        assert split.fertilities is not None
        np.testing.assert_array_equal(split.fertilities.offsets, split.source.offsets)
        for row in range(len(split)):
            assert split.fertilities[row].sum() == len(split.target[row])
    assert data.split("test").fertilities is None


def test_the_manifest_says_what_was_done(prepared: Path, data_config: DataConfig) -> None:
    manifest = PreparedData.load(prepared).manifest
    assert config_json.from_json(DataConfig, manifest["config"]) == data_config
    assert manifest["report"]["counts"] == {
        "train: read": 600,
        "validation: read": 20,
        "test: read": 28,
        "test_far: read": 1,
        "train: kept": 600,
        "validation: kept": 20,
        "test: kept": 28,
        "test_far: kept": 1,
    }
    assert len(manifest["report"]["provenance"]["files"]) == 4
    assert manifest["splits"]["train"]["sentences"] == 600
    assert manifest["splits"]["test_far"]["longest_target"] >= 1
    assert manifest["vocabulary"]["joint"] is True


def test_preparing_again_returns_at_once(
    prepared: Path, data_config: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare.cleaning, "spool", None)  # would fail if it were called
    manifest = prepare.prepare(data_config)
    assert manifest == arrays.read_manifest(prepared)


def test_another_config_names_the_fields(prepared: Path, data_config: DataConfig) -> None:
    other = dataclasses.replace(
        data_config, max_tokens=50, vocabulary=VocabularyConfig(size=330, kind="bpe")
    )
    with pytest.raises(ValueError, match="prepared with another config") as error:
        prepare.prepare(other)
    assert "max_tokens: 200 -> 50" in str(error.value)
    assert "vocabulary.size: 310 -> 330" in str(error.value)
    assert 'vocabulary.kind: "unigram" -> "bpe"' in str(error.value)
    assert "remove_overlap" not in str(error.value)


def test_the_hash_does_not_depend_on_place_or_time(
    prepared: Path, data_config: DataConfig, tmp_path: Path
) -> None:
    elsewhere = dataclasses.replace(data_config, directory=str(tmp_path / "elsewhere"))
    assert prepare.prepare(elsewhere)["data_hash"] == PreparedData.load(prepared).hash
    cased = dataclasses.replace(
        elsewhere, directory=str(tmp_path / "other"), max_length_ratio=1.0, max_lost=1.0
    )
    assert prepare.prepare(cased)["data_hash"] != PreparedData.load(prepared).hash


def test_an_interrupted_run_leaves_nothing_and_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(tmp_path, SENTENCES[:300])

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "write_fertilities", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare.prepare(config)
    assert not (tmp_path / "data").exists()
    assert prepare.prepare(config)["splits"]["train"]["sentences"] == 300


def test_long_pairs_leave_training_only(tmp_path: Path) -> None:
    wordy = "dog " * 60
    config = small(
        tmp_path,
        [*SENTENCES[:300], (wordy, "Hund"), ("dog", wordy), ("cat", "Katze Katze Katze Katze")],
        max_tokens=30,
        max_length_ratio=3.5,
    )
    write_table(tmp_path / "validation.tsv", [(f"hello {wordy}", f"hallo {wordy}")])
    manifest = prepare.prepare(config)
    counts = manifest["report"]["counts"]
    assert counts["train: dropped, longer than 30 tokens"] == 2
    assert counts["train: dropped, length ratio over 3.5"] >= 1
    assert manifest["splits"]["train"]["longest_source"] <= 30
    assert manifest["splits"]["validation"]["longest_target"] > 60
    texts = PreparedData.load(tmp_path / "data").split("train").source_text
    assert wordy not in texts
    assert len(texts) == manifest["splits"]["train"]["sentences"]


def test_training_pairs_that_stand_in_validation_are_removed(tmp_path: Path) -> None:
    leaks = [("HELLO\u200b  there", "guten Tag"), ("good day", "Hallo\u00a0du")]
    leaks.append(("hello you", "hallo da"))
    manifest = prepare.prepare(small(tmp_path, SENTENCES[:300] + leaks))
    counts = manifest["report"]["counts"]
    assert counts["train: dropped, source in validation or test"] == 1
    assert counts["train: dropped, target in validation or test"] == 1
    assert counts["train: kept"] == 301
    (tmp_path / "kept").mkdir()
    kept = small(tmp_path / "kept", SENTENCES[:300] + leaks, remove_overlap=False)
    assert prepare.prepare(kept)["splits"]["train"]["sentences"] == 303


def test_line_breaks_inside_a_text_become_spaces(tmp_path: Path) -> None:
    pair = ("one\u2028line", "eine\x85 Zeile")
    manifest = prepare.prepare(small(tmp_path, [*SENTENCES[:300], pair]))
    train = PreparedData.load(tmp_path / "data").split("train")
    assert (train.source_text[-1], train.target_text[-1]) == ("one line", "eine  Zeile")
    assert manifest["report"]["counts"]["train: line breaks inside a text became spaces"] == 1


def test_splits_must_exist_and_hold_something(tmp_path: Path) -> None:
    table = write_table(tmp_path / "train.tsv", SENTENCES[:10])
    with pytest.raises(ValueError, match="no validation split, only train"):
        prepare.prepare(DataConfig(str(tmp_path / "data"), TextFiles(train=table)))
    leaking = small(tmp_path, [("hello there", "hallo du")] * 3)
    with pytest.raises(
        ValueError, match=r"train split has no pairs left .*in validation or test: 3"
    ):
        prepare.prepare(leaking)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".tsv", ".tsv"]


CHINESE = [
    ("I like tea on rainy days", "我喜欢在下雨天喝热茶。"),
    ("the cat sleeps at the window", "这只猫睡在窗台上。"),
]


def test_references_in_which_bleu_finds_no_words_stop_it(tmp_path: Path) -> None:
    """Otherwise every BLEU of a Chinese target is 0.00."""
    table, test = (
        write_table(tmp_path / f"{name}.tsv", pairs)
        for name, pairs in (("train", SENTENCES[:300]), ("test", CHINESE))
    )
    corpus = TextFiles(train=table, validation=test)
    config = DataConfig(str(tmp_path / "data"), corpus, VocabularyConfig(size=300), aligner=None)
    with pytest.raises(ValueError, match=r"references of validation score BLEU 0.*target_language"):
        prepare.prepare(config)
    assert not Path(config.directory).exists()
    known = dataclasses.replace(corpus, target_language="zh")
    assert prepare.prepare(dataclasses.replace(config, corpus=known))


def test_a_directory_from_before_the_languages_takes_their_names(
    prepared: Path, data_config: DataConfig
) -> None:
    """They decide how BLEU is computed, not what the directory holds."""
    named = dataclasses.replace(data_config.corpus, target_language="de", bleu_tokenizer=None)
    config = dataclasses.replace(data_config, corpus=named)
    assert prepare.prepare(config) == arrays.read_manifest(prepared)


def test_a_directory_from_before_white_space_collapsed_goes_on_as_it_was_begun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new default must not stop a study: its config file names no white space, and neither does its manifest."""
    config = small(tmp_path, SENTENCES[:300])
    kept = dataclasses.replace(config.vocabulary, white_space="keep")
    prepare.prepare(dataclasses.replace(config, vocabulary=kept))
    with pytest.raises(ValueError, match=r'vocabulary\.white_space: "keep" -> "collapse"'):
        prepare.prepare(config)  # this one was chosen
    manifest = arrays.read_manifest(tmp_path / "data")
    del manifest["config"]["vocabulary"]["white_space"]
    (tmp_path / "data" / "manifest.json").write_text(json.dumps(files.signed(manifest)), "utf-8")
    capsys.readouterr()
    assert prepare.prepare(config)["data_hash"] == manifest["data_hash"]
    assert "kept white space as it is, and goes on so" in capsys.readouterr().err
    assert prepare.as_begun(config).vocabulary == kept
    assert prepare.config_of(PreparedData.load(tmp_path / "data")).vocabulary == kept
    elsewhere = dataclasses.replace(config, directory=str(tmp_path / "elsewhere"))
    assert prepare.as_begun(elsewhere) == elsewhere


def test_a_raw_file_that_has_changed_is_not_passed_over(tmp_path: Path) -> None:
    """The arrays would be those of the old file, and the report as if the new one had been read."""
    config = small(tmp_path, SENTENCES[:300])
    prepare.prepare(config)
    table, moved = tmp_path / "train.tsv", tmp_path / "moved.tsv"
    text = table.read_text("utf-8")
    write_table(table, SENTENCES[:301])
    with pytest.raises(
        ValueError, match=r"has changed since \(.*/train\.tsv, SHA-256 \w+ -> \w+\):"
    ):
        prepare.prepare(config)
    table.write_text(text, "utf-8")
    assert prepare.prepare(config)
    table.rename(moved)
    assert prepare.prepare(config), "a file that is gone has not changed"


def test_code_of_another_version_reads_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the package, and that of a corpus in a file of one's own; the rest of that file may change."""
    config = small(tmp_path, SENTENCES[:300])
    prepare.prepare(config)
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "READER", 99)
        with pytest.raises(ValueError, match=r"code that reads the corpus, \d+ -> 99"):
            prepare.prepare(config)
    assert prepare.prepare(config)
    monkeypatch.chdir(tmp_path)
    code = """
import dataclasses
from nat_ar.data.corpus import Corpus

LEARNING_RATE = 1

def words(text):
    return text.split()

@dataclasses.dataclass(frozen=True)
class Mine(Corpus):
    def splits(self, report):
        return {"train": words("a b")}
"""

    def hash_of(code: str) -> str | None:
        Path("mine.py").write_text(code, "utf-8")
        return corpus_code.hash_of(config_json.run_file("mine.py").Mine)

    assert hash_of(code) == hash_of(code.replace("RATE = 1", "RATE = 2")) is not None
    assert hash_of(code) != hash_of(code.replace("text.split()", "text.split('-')"))
    assert hash_of(code) != hash_of(code.replace('"a b"', '"a c"'))
    assert corpus_code.hash_of(TextFiles) is None


def test_a_test_is_whole_or_the_loss_is_allowed(tmp_path: Path) -> None:
    rows = [*SENTENCES[300:310], ("", "leer"), ("long " * 600, "lang")]
    config = small(tmp_path, SENTENCES[:300])
    corpus = dataclasses.replace(
        config.corpus, test=write_table(tmp_path / "test.tsv", rows), bleu_tokenizer=None
    )
    corpus = dataclasses.replace(corpus, validation=corpus.test)
    config = dataclasses.replace(config, corpus=corpus)
    lost = r"validation would lose 2 pairs \(empty side: 1; longer than 2000 characters: 1; such as"
    with pytest.raises(ValueError, match=lost + r".*data\.may_lose_tests"):
        prepare.prepare(config)
    prepare.prepare(dataclasses.replace(config, may_lose_tests=True))
    data = PreparedData.load(config.directory)
    assert (len(data.split("test")), data.num_lost("test"), data.num_lost("train")) == (10, 2, 0)
    assert prepare.prepare(config)  # what may be lost does not decide what is there
    old = json.loads(json.dumps(data.manifest))
    del old["report"]["lost"]  # as an early version wrote it
    assert dataclasses.replace(data, manifest=old).num_lost("test") == 2


def test_a_loss_of_most_of_the_training_pairs_is_an_error(tmp_path: Path) -> None:
    short = small(tmp_path, [*SENTENCES[:300], *(("wordy " * 120, "Wort"),) * 20], max_tokens=100)
    with pytest.raises(
        ValueError,
        match=r"lose 20 of 320 pairs, 6% \(longer than 100 tokens: 20; such as wordy.*max_lost",
    ):
        prepare.prepare(short)
    empty = small(tmp_path, [*SENTENCES[:300], *(("", "Wort"),) * 30])
    with pytest.raises(ValueError, match=r"lose 30 of 330 pairs, 9% \(empty side: 30"):
        prepare.prepare(empty)
    allowed = dataclasses.replace(empty, max_lost=0.1)
    assert prepare.prepare(allowed)["splits"]["train"]["sentences"] == 300


def test_a_directory_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.txt").touch()
    with pytest.raises(ValueError, match=r"data holds files, but no manifest\.json"):
        prepare.prepare(small(tmp_path, SENTENCES[:300]))
    assert (tmp_path / "data" / "thesis.txt").exists()


def test_alignments_from_outside_replace_those_of_training(tmp_path: Path) -> None:
    first = small(tmp_path, SENTENCES[:300])
    prepare.prepare(first)
    train = PreparedData.load(tmp_path / "data").split("train")
    to_the_last = [
        " ".join(f"{n - 1}-{j}" for j in range(m))
        for n, m in zip(train.source.lengths, train.target.lengths, strict=True)
    ]
    pharaoh = tmp_path / "train.align"
    pharaoh.write_text("\n".join(to_the_last) + "\n")
    second = dataclasses.replace(
        first, directory=str(tmp_path / "aligned"), alignments=str(pharaoh)
    )
    manifest = prepare.prepare(second)
    fertilities = PreparedData.load(tmp_path / "aligned").split("train").fertilities
    assert fertilities is not None
    assert fertilities[0].tolist() == [0] * (train.source.lengths[0] - 1) + [
        train.target.lengths[0]
    ]
    assert manifest["report"]["provenance"]["alignments"]["path"] == str(pharaoh)
    pharaoh.write_text("0-0\n")
    third = dataclasses.replace(second, directory=str(tmp_path / "short"))
    with pytest.raises(ValueError, match=r"train\.align: expected 300 lines"):
        prepare.prepare(third)


def test_the_vocabulary_learns_from_sentences_spread_evenly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt_from: list[str] = []
    original = vocabulary.train

    def spy(
        source: Iterator[str], target: Iterator[str], directory: Path, config: VocabularyConfig
    ) -> vocabulary.Vocabulary:
        learnt_from.extend(source)
        return original(learnt_from, target, directory, config)

    monkeypatch.setattr(vocabulary, "train", spy)
    config = VocabularyConfig(size=300, max_training_sentences=100)
    prepare.prepare(small(tmp_path, SENTENCES[:300], vocabulary=config))
    assert learnt_from == [source for source, _ in SENTENCES[2:300:3]]


def test_the_toy_corpus_and_held_out_pairs_can_be_prepared(tmp_path: Path) -> None:
    toy = ToyCorpus(num_train=80, num_validation=5, num_test=10)
    words = VocabularyConfig(size=320, kind="bpe")
    config = DataConfig(str(tmp_path / "toy"), toy, vocabulary=words, remove_overlap=False)
    splits = prepare.prepare(config)["splits"]
    assert [splits[name]["sentences"] for name in ("train", "validation", "test")] == [80, 5, 10]
    table = write_table(tmp_path / "pairs.tsv", SENTENCES[:300])
    corpus = TextFiles(train=table, hold_out=HoldOut(10, 20))
    config = DataConfig(str(tmp_path / "held"), corpus, VocabularyConfig(size=300), aligner=None)
    assert prepare.prepare(config)["splits"]["train"]["sentences"] == 270


def test_distilled_data_replace_the_training_targets_only(prepared: Path, tmp_path: Path) -> None:
    base = PreparedData.load(prepared)
    train = base.split("train")
    targets = [" ".join(reversed(text.split())) for text in train.target_text]
    targets[7] = ""
    targets[9] = "Hund " * 300
    targets[11] = "zwei\nZeilen"
    card = {"teacher": "runs/ar", "bleu": 30.5}
    manifest = write_distilled(base, tmp_path / "distilled", targets, card)
    distilled = PreparedData.load(tmp_path / "distilled")
    assert distilled.training_data == "distilled"
    assert distilled.manifest["distilled"] == card
    assert distilled.manifest["base_hash"] == base.hash != distilled.hash
    assert distilled.vocabulary == base.vocabulary
    kept = [row for row in range(len(train)) if row not in (7, 9)]
    new = distilled.split("train")
    assert new.source_text == [train.source_text[row] for row in kept]
    assert new.target_text == [targets[row].replace("\n", " ") for row in kept]
    np.testing.assert_array_equal(new.source[6], train.source[6])
    np.testing.assert_array_equal(new.source[7], train.source[8])
    assert new.fertilities is not None
    assert new.fertilities[0].sum() == len(new.target[0])
    for name in ("validation", "test", "test_far"):
        for file in (base.directory / name).iterdir():
            assert (distilled.directory / name / file.name).read_bytes() == file.read_bytes()
    assert manifest["report"]["counts"] == {
        "train: read": 600,
        "train: dropped, empty translation": 1,
        "train: dropped, longer than 200 tokens": 1,
        "train: kept": 598,
        "validation: kept": 20,
        "test: kept": 28,
        "test_far: kept": 1,
    }
    assert json.dumps(write_distilled(base, tmp_path / "distilled", targets, {}))
    with pytest.raises(ValueError, match="holds other prepared data"):
        write_distilled(base, tmp_path / "distilled", targets[::-1], card)
    config = config_json.from_json(DataConfig, manifest["config"])
    with pytest.raises(ValueError, match=r"prepared with another config|holds distilled data"):
        prepare.prepare(config)


def test_distilled_data_need_a_translation_for_each_source(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="599 translations for 600 training sources"):
        write_distilled(PreparedData.load(prepared), tmp_path / "d", ["x"] * 599, {})


def test_alignment_learns_from_training_only(prepared: Path) -> None:
    data = PreparedData.load(prepared)
    train, validation = data.split("train"), data.split("validation")
    size = data.vocabulary.source_size
    trained = aligner.train(
        train.source,
        train.target,
        AlignerConfig(),
        source_size=size,
        target_size=size,
    )
    linked = aligner.link(trained, validation.source, validation.target)
    expected = links.fertilities(linked, validation.source, validation.target)
    assert validation.fertilities is not None
    np.testing.assert_array_equal(validation.fertilities.values, expected.values)


def test_corpora_beyond_memory_are_aligned_in_parts_by_what_a_sample_teaches(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts change no byte; a sample is evenly spaced, and all pairs are linked by what it taught."""
    base = PreparedData.load(prepared)
    train = base.split("train")

    def fertilities_of(name: str, config: AlignerConfig, part: int) -> bytes:
        place = tmp_path / name
        shutil.copytree(train.directory, place)
        for path in place.glob("fertilities.*"):
            path.unlink()
        monkeypatch.setattr(fertilities, "PART", part)
        split = Split.load(place)
        show = Progress(True).line("alignment")
        with show as line:
            progress = line.set_description_str
            fertilities.align(config, base.vocabulary, split, split, progress=progress)
        found = [place / f"fertilities.{half}.npy" for half in ("offsets", "values")]
        return b"".join(path.read_bytes() for path in found)

    paths = [train.directory / f"fertilities.{half}.npy" for half in ("offsets", "values")]
    whole = b"".join(path.read_bytes() for path in paths)
    assert fertilities_of("whole", AlignerConfig(), 10_000) == whole
    assert fertilities_of("parts", AlignerConfig(), 7) == whole
    kept = np.arange(len(train)) % 15 == 14  # 40 of 600
    few = AlignerConfig(max_training_pairs=40, iterations=1, flat_iterations=1)
    sides = (train.source.where(kept), train.target.where(kept))
    trained = aligner.train(*sides, few, source_size=310, target_size=310)
    linked = aligner.link(trained, train.source, train.target)
    links.fertilities(linked, train.source, train.target).save(tmp_path / "few")
    expected = [tmp_path / f"few.{half}.npy" for half in ("offsets", "values")]
    found = fertilities_of("sample", few, 100)
    assert found == b"".join(path.read_bytes() for path in expected)
    assert found != whole


def test_files_in_place_of_a_corpus_are_scored_in_the_languages_of_the_config() -> None:
    corpus = TextFiles(train=("a.tsv",), hold_out=HoldOut(1, 1), target_language="zh")
    config = DataConfig("data", corpus)
    for paths in (("b.tsv",), ("train.tsv", "validation.tsv", "test.tsv")):
        assert prepare.from_files(config, paths).corpus.tokenizer == "zh"

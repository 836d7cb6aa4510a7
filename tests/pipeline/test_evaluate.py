"""evaluate: how good translations are, as rows that others can read."""

import dataclasses
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nat_ar import __main__ as command_line
from nat_ar import config_json
from nat_ar.commands import evaluate as command
from nat_ar.commands.evaluate import Evaluate
from nat_ar.config_json import ConfigError
from nat_ar.data import evaluation_set, prepare, references
from nat_ar.data.arrays import PreparedData
from nat_ar.data.prepare import DataConfig
from nat_ar.data.toy.corpus import ToyCorpus
from nat_ar.data.vocabulary import VocabularyConfig
from nat_ar.evaluation import metrics, results
from nat_ar.experiment.config import ExperimentConfig, load_file
from nat_ar.experiment.run import Run
from nat_ar.methods.length_nat import LengthNat
from nat_ar.pipeline import compare, evaluate
from nat_ar.runtime import files
from nat_ar.search.beam import Beam
from nat_ar.search.one_pass import LengthBeam
from nat_ar.training import step
from nat_ar.training.checkpoint import Checkpoints
from nat_ar.translation.decodings import Choice
from nat_ar.translation.translation import Translation
from toys import TINY


@pytest.fixture(scope="module")
def run(tiny_runs, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A copy of the one-pass run, evaluated under two decodings."""
    directory = tmp_path_factory.mktemp("evaluate") / "run"
    shutil.copytree(tiny_runs.length_nat.directory, directory)
    (directory / results.FILE_NAME).unlink(missing_ok=True)
    command.run(Evaluate(str(directory), ("LengthBeam", "LengthBeam(size=2)")))
    return Run(directory)


def test_the_target_language_decides_how_bleu_cuts_words(
    tiny_runs, start_run, tmp_path: Path
) -> None:
    """An option overrides it; a run of before the languages stays at 13a."""
    old = tiny_runs.length_nat.config()
    corpus = dataclasses.replace(old.data.corpus, target_language="zh", bleu_tokenizer=None)
    data = dataclasses.replace(old.data, corpus=corpus)
    config = dataclasses.replace(old, data=data)
    chinese = start_run(Run(tmp_path / "zh"), config, PreparedData.load(tiny_runs.data))
    row = evaluate.evaluate(chinese)
    assert "tok:zh" in row["bleu"]["signature"]
    assert "asian:yes" in row["ter"]["signature"]
    row = evaluate.evaluate(chinese, bleu_tokenizer="char")
    assert "tok:char" in row["bleu"]["signature"]
    assert "--bleu-tokenizer char" in row["command"]
    shutil.copytree(tiny_runs.length_nat.directory, tmp_path / "old")
    row = evaluate.evaluate(tmp_path / "old")
    assert "tok:13a" in row["bleu"]["signature"]
    assert "--bleu-tokenizer" not in row["command"]


def test_a_row_says_how_much_of_the_test_it_scored(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(shutil.copytree(run.directory, tmp_path / "run"))
    (whole, *_) = results.read(run.directory)
    assert whole["lost"] == 0
    assert "(12 sentences, " in command.summary(whole)
    monkeypatch.setattr(PreparedData, "num_lost", lambda self, split: 48)
    row = evaluate.evaluate(run)
    assert row["lost"] == 48
    assert "(12 of 60 sentences, " in command.summary(row)
    table = compare.compare(run.directory)
    for form in ("terminal", "latex"):
        assert "12 of 60 sentences" in " ".join(table.render(form).split())


def test_bleu_of_references_that_are_not_detokenised_is_said_once(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(shutil.copytree(run.directory, tmp_path / "run"))
    assert all(row["tokenised"] == 0 for row in results.read(run.directory))
    monkeypatch.setattr(references, "num_tokenised", lambda texts: len(texts))
    for size in (1, 2):
        row = evaluate.evaluate(run, decoding=f"LengthBeam(size={size})")
        assert row["tokenised"] == 12
        assert "warning: 12 of 12 references look tokenised" in command.summary(row)
    assert str(compare.compare(run.directory)).count("look tokenised") == 1
    assert results.tokenised({**row, "valid": 50.0}) is None
    assert results.tokenised({**row, "tokenised": None}) is None


def test_each_decoding_leaves_a_row(run: Run, tiny_runs) -> None:
    first, second = results.read(run.directory)
    assert (first["decoding"], second["decoding"]) == (
        "LengthBeam(size=1)",
        "LengthBeam(size=2)",
    )
    assert first["hypotheses"] != second["hypotheses"]
    data = PreparedData.load(tiny_runs.data)
    expected = {
        "kind": "quality",
        "name": "nat",
        "method": "LengthNat",
        "variant": "vanilla NAT",
        "training_data": "raw",
        "split": "test",
        "data_hash": data.hash,
        "config_hash": config_json.hash_of(run.config()),
        "checkpoint_step": 0,
        "parameters": run.load().num_parameters,
        "sentences": 12,
        "steps": 1.0,
        "dtype": "float32",
        "domains": None,
        "valid": None,
        "mixed": None,
        "train_steps": 0,
        "train_seconds": 0.0,
        "train_target_tokens": 0,
    }
    assert {name: first[name] for name in expected} == expected
    for row in (first, second):
        for metric in ("bleu", "bleu_lc", "chrf", "ter"):
            score = row[metric]
            assert score["low"] <= score["score"] <= score["high"]
            assert "version:" in score["signature"]
        assert sum(group["sentences"] for group in row["lengths"].values()) == 12


def test_no_two_settings_share_a_file() -> None:
    """What evaluate translated under one is what `compare` reads of it, whatever was evaluated since."""
    known = {
        "parameters_hash": "p",
        "rescorer": None,
        "decoding": "Beam(size=4, length_penalty=0.5)",
        "test_hash": "t",
    }
    others = [
        {"decoding": "Beam(size=4, length_penalty=-0.5)"},
        {"decoding": "Beam(size=4, length_penalty=5e-01)"},
        {"parameters_hash": "of another checkpoint"},
        {"rescorer": {"run": "ar", "checkpoint_step": 1, "parameters_hash": "q"}},
        {"test_hash": "of --data"},
    ]
    names = [evaluate._file_name({**known, **other}) for other in ({}, *others)]
    assert len(set(names)) == len(names)
    assert all(name.startswith("Beam_size_4_length_penalty_") for name in names)
    assert evaluate._file_name(known) == names[0]


def test_the_files_hold_raw_references_and_a_line_for_each_sentence(run: Run, tiny_runs) -> None:
    test = PreparedData.load(tiny_runs.data).split("test")
    for row in results.read(run.directory):
        assert files.read_lines(run.directory / row["references"]) == test.target_text
        assert len(files.read_lines(run.directory / row["hypotheses"])) == 12


def test_the_test_hash_is_that_of_the_text(run: Run, tiny_runs) -> None:
    folder = tiny_runs.data / "test"
    text = (folder / "source.txt").read_bytes() + (folder / "target.txt").read_bytes()
    expected = hashlib.sha256(text).hexdigest()
    assert {row["test_hash"] for row in results.read(run.directory)} == {expected}


def test_the_command_of_a_row_asks_for_the_same_again(run: Run) -> None:
    row = results.read(run.directory)[1]
    python, flag, package, verb, *words = shlex.split(row["command"])
    assert (python, flag, package, verb) == ("python", "-m", "nat_ar", "evaluate")
    arguments = command_line.parse(verb, words)
    assert arguments == Evaluate(str(run.directory), (row["decoding"],), "test", "0")


def test_a_row_of_an_average_names_its_steps_and_asks_for_them_again(
    tiny_runs, tmp_path: Path
) -> None:
    run = Run(shutil.copytree(tiny_runs.length_nat.directory, tmp_path / "run"))
    (run.directory / results.FILE_NAME).unlink(missing_ok=True)
    before = run.load().model
    other = jax.tree.map(lambda x: x + 1.0, before.params)
    state = step.initial_state(other, optax.sgd(0.1), seed=0, has_average=False)
    checkpoints = Checkpoints(run.checkpoints_directory, keep_best=2)
    at_7 = dataclasses.replace(state, step=jnp.int32(7))
    checkpoints.save(at_7, checkpoints.progress(0), score=0.5)
    checkpoints.close()
    loaded = run.load("average:2")
    np.testing.assert_allclose(loaded.model.leaves[0], before.leaves[0] + 0.5, rtol=1e-6)
    assert (loaded.step, loaded.averaged_steps) == (7, (0, 7))
    assert run.pinned("average:2") == "average:0,7"
    assert run.parameters_hash("average:0,7") == loaded.parameters_hash
    row = evaluate.evaluate(run, checkpoint="average:2")
    assert row["averaged_steps"] == [0, 7]
    assert row["checkpoint_step"] == 7
    assert row["parameters_hash"] == loaded.parameters_hash != run.load("7").parameters_hash
    assert shlex.split(row["command"])[-2:] == ["--checkpoint", "average:0,7"]
    assert "mean of the checkpoints 0 and 7)" in command.summary(row)
    assert evaluate.evaluate(run, checkpoint="7")["averaged_steps"] is None


def test_only_what_was_not_learnt_is_evaluated(run: Run) -> None:
    with pytest.raises(ValueError, match="expected validation or a test split, got train"):
        evaluate.evaluate(run, split="train")
    with pytest.raises(ValueError, match="law"):
        evaluate.evaluate(run, split="law")
    assert len(results.read(run.directory)) == 2


class Repeating:
    """A translator that has learnt its answers by heart."""

    choice = Choice(LengthBeam())

    def __init__(self, answers: Sequence[str]) -> None:
        self.answers = answers

    def translate(self, sentences: Sequence[str], *, title: str) -> list[Translation]:
        assert len(sentences) == len(self.answers)
        return [
            Translation([text], [0.0], [[7]], 1, is_cut=not text, is_blank=not text)
            for text in self.answers
        ]


@pytest.fixture(scope="module")
def toy_run(
    start_run: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Run, PreparedData]:
    directory = tmp_path_factory.mktemp("toy")
    words = VocabularyConfig(size=80, kind="bpe", byte_fallback=False)
    corpus = ToyCorpus(num_train=30, num_validation=1, num_test=4)
    config = DataConfig(str(directory / "data"), corpus, words, aligner=None)
    prepare.prepare(config, quiet=True)
    data = PreparedData.load(config.directory)
    return start_run(
        Run(directory / "run"), ExperimentConfig("toy", config, LengthNat(TINY)), data
    ), data


def test_of_the_toy_language_it_says_valid_and_mixed(
    toy_run: tuple[Run, PreparedData],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A reference is valid. Its words in the wrong order are all right and the whole is not."""
    run, data = toy_run
    test = data.split("test")
    first, second, third, _ = test.target_text
    answers = [first, second, " ".join(reversed(third.split())), ""]
    opened = run.load(), Repeating(answers)
    monkeypatch.setattr(evaluate, "open_translator", lambda *_: opened)
    command.run(Evaluate(str(run.directory)))
    (row,) = results.read(run.directory)
    assert (row["valid"], row["mixed"]) == (50.0, 25.0)
    assert row["domains"].keys() == set(test.domains)
    assert files.read_lines(run.directory / row["hypotheses"]) == answers
    assert any("1 translations reached their length limit" in text for text in row["warnings"])
    assert any("1 sources are blank" in text for text in row["warnings"])
    said = capsys.readouterr().out
    assert "valid 50.0 %   mixed 25.0 %" in said
    assert "warning: 1 translations reached" in said


CORPUS_OF_ONES_OWN = """
import dataclasses
from nat_ar.data.corpus import Corpus, Verdict
from nat_ar.data.pair import Pair
from nat_ar.data.prepare import DataConfig
from nat_ar.data.vocabulary import VocabularyConfig
from nat_ar.experiment.config import ExperimentConfig
from nat_ar.methods.length_nat import LengthNat
from nat_ar.nn.transformer import TransformerConfig

@dataclasses.dataclass(frozen=True)
class Backwards(Corpus):
    pairs: int = 30

    def splits(self, report):
        rows = [" ".join(f"{row:03}") for row in range(self.pairs + 6)]
        pairs = [Pair(row, row[::-1]) for row in rows]
        return {"test": pairs[:4], "validation": pairs[4:6], "train": pairs[6:]}

    def judge(self, source, text):
        valid = text == source[::-1]
        return Verdict(valid, mixed=not valid and sorted(text) == sorted(source))

words = VocabularyConfig(size=24, byte_fallback=False)
data = DataConfig("data", Backwards(), words, aligner=None)
config = ExperimentConfig("backwards", data, LengthNat(TransformerConfig(8, 8, 1, 1, 1)))
"""


def test_a_corpus_of_a_config_file_is_prepared_and_judges_by_its_own_rules(
    start_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    Path("backwards.py").write_text(CORPUS_OF_ONES_OWN, "utf-8")
    words = ["prepare", "backwards.py", "--corpus.pairs", "40", "--corpus.bleu_tokenizer", "13a"]
    command_line.main(words, set_up=lambda verb: None)
    data = PreparedData.load("data")
    assert len(data.split("train")) == 40
    corpus = {"type": "Backwards", "from": "backwards.py", "pairs": 40}
    corpus |= {"source_language": None, "target_language": None, "bleu_tokenizer": "13a"}
    assert data.manifest["config"]["corpus"] == corpus

    run = start_run(Run(Path("run")), load_file("backwards.py"), data)
    assert run.config().data.corpus.judge("0 1 2", "2 1 0") == (True, False)
    answers = ["0 0 0", "1 0 0", "0 2 0", "3"]  # of 0 0 0, 0 0 1, 0 0 2, 0 0 3
    opened = run.load(), Repeating(answers)
    monkeypatch.setattr(evaluate, "open_translator", lambda *_: opened)
    row = evaluate.evaluate(run)
    assert (row["valid"], row["mixed"]) == (50.0, 25.0)


def test_another_process_reads_such_a_corpus_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "backwards.py").write_text(CORPUS_OF_ONES_OWN, "utf-8")
    written = {"type": "Backwards", "from": "backwards.py", "pairs": 5}
    code = f"""
from nat_ar import config_json
from nat_ar.data.corpus import Corpus
print(config_json.from_json(Corpus, {written}).judge("0 1", "1 0").valid)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(evaluate.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "True\n"


def test_data_of_another_vocabulary_are_refused(
    run: Run, toy_run: tuple[Run, PreparedData]
) -> None:
    with pytest.raises(ValueError, match="was prepared with another vocabulary than"):
        evaluate.evaluate(run, data_directory=str(toy_run[1].directory))


def test_a_perfect_translation(
    toy_run: tuple[Run, PreparedData], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, data = toy_run
    opened = run.load(), Repeating(data.split("validation").target_text)
    monkeypatch.setattr(evaluate, "open_translator", lambda *_: opened)
    row = evaluate.evaluate(run, split="validation")
    assert row["bleu"]["score"] == pytest.approx(100.0)
    assert row["ter"]["score"] == 0.0
    assert row["length_ratio"] == 1.0
    assert (row["valid"], row["mixed"]) == (100.0, 0.0)
    assert row["warnings"] == []


def test_a_metric_of_the_users_own_is_scored_and_its_file_is_in_the_command(
    toy_run: tuple[Run, PreparedData],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """It counts the words of the source that are among those of the hypothesis."""
    path = tmp_path / "copied.py"
    path.write_text(
        "from nat_ar.evaluation import metrics\n"
        "def copied(hypotheses, references, sources):\n"
        "    pairs = zip(hypotheses, sources)\n"
        "    counts = [len({*h.split()} & {*s.split()}) for h, s in pairs]\n"
        "    return metrics.of_sentences(counts, 'copied|1')\n"
        "METRICS = (metrics.Metric('copied', 'Copied', copied, 'lower', decimals=1),)\n"
    )
    run, data = toy_run
    sources = data.split("test").source_text
    opened = run.load(), Repeating(sources)
    monkeypatch.setattr(evaluate, "open_translator", lambda *_: opened)
    command.run(Evaluate(str(run.directory), metrics=(str(path),)))
    row = results.read(run.directory)[-1]
    expected = sum(len({*source.split()}) for source in sources) / len(sources)
    assert row["copied"]["score"] == pytest.approx(expected)
    assert row["copied"]["signature"] == "copied|1"
    assert row["bleu"]["score"] < 100
    assert f"Copied {expected:.1f}   length ratio" in capsys.readouterr().out
    assert row["command"].endswith(f"--metrics {path}")


def test_an_oracle_chooses_the_length_of_the_reference() -> None:
    """Of 1, 3 and 5 tokens those nearest to 3, 9 and 2: of two as near, the better one."""
    found = Translation(["a", "b b b", "c"], [-1.0, -2.0, -3.0], [[7], [8] * 3, [9] * 5], 1)
    chosen = evaluate.of_nearest_length([found] * 3, [3, 9, 2])
    assert [one.texts for one in chosen] == [["b b b"], ["c"], ["a"]]
    assert [(one.scores, one.tokens) for one in chosen][1] == ([-3.0], [[9] * 5])


def test_a_row_of_an_oracle_is_a_row_of_its_own(
    toy_run: tuple[Run, PreparedData], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference is the second of three translations: an oracle finds it, and the row says that it was one."""
    run, data = toy_run
    split = data.split("test")

    class Lengths(Repeating):
        choice = Choice(LengthBeam(3, n_best=3))

        def translate(self, sentences: Sequence[str], *, title: str) -> list[Translation]:
            return [
                Translation(["-", text, "-"], [0.0] * 3, [[7] * (n + 2), [7] * n, [7] * (n - 1)], 1)
                for text, n in zip(self.answers, split.target.lengths.tolist(), strict=True)
            ]

    opened = run.load(), Lengths(split.target_text)
    monkeypatch.setattr(evaluate, "open_translator", lambda *_: opened)
    plain, oracle = (evaluate.evaluate(run, oracle_length=is_oracle) for is_oracle in (False, True))
    assert oracle["bleu"]["score"] == pytest.approx(100.0)
    assert plain["bleu"]["score"] < 1.0
    assert oracle["decoding"] == plain["decoding"] + " oracle length"
    assert oracle["hypotheses"] != plain["hypotheses"]
    verb, *words = shlex.split(oracle["command"])[3:]
    assert command_line.parse(verb, words) == Evaluate(
        str(run.directory), (plain["decoding"],), "test", "0", oracle_length=True
    )
    for decoding in (LengthBeam(3), LengthBeam(3, n_best=3, remove_repeats=True)):
        opened[1].choice = Choice(decoding)
        with pytest.raises(ConfigError, match="oracle_length chooses among several lengths"):
            evaluate.evaluate(run, oracle_length=True)


@pytest.fixture
def news(tmp_path: Path) -> tuple[str, str, str]:
    """Three sources and two references of each: eight words, and none of them shared."""
    paths = tmp_path / "news.en", tmp_path / "first.de", tmp_path / "second.de"
    letters = ["a b c d e f g h", "b c d e f g h a", "c d e f g h a b"]
    for path, change in zip(paths, (str, str.upper, lambda text: text[::-1].upper()), strict=True):
        path.write_text("".join(change(line) + "\n" for line in letters), "utf-8")
    source, first, second = map(str, paths)
    return source, first, second


def test_files_with_several_references_are_a_test(
    run: Run,
    tiny_runs,
    news: tuple[str, str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without `prepare`. Half of the translations are the one reference, half the other: BLEU is 100 by both, and not
    by one. `compare` tests against both."""
    source, *references = news
    lines = [Path(path).read_text("utf-8").splitlines() for path in references]
    perfect = [lines[0][0], lines[1][1], lines[0][2]]
    opened = run.load(), Repeating(perfect)
    monkeypatch.setattr(evaluate, "open_translator", lambda *_: opened)
    run = Run(shutil.copytree(run.directory, tmp_path / "run"))
    command.run(Evaluate(str(run.directory), source=source, reference=tuple(references)))
    row = results.read(run.directory)[-1]
    assert row["split"] == "files:news.en"
    assert row["bleu"]["score"] == pytest.approx(100)
    assert "nrefs:2" in row["bleu"]["signature"]
    assert row["length_ratio"] == 1.0
    assert row["domains"] is None
    verb, *words = shlex.split(row["command"])[3:]
    assert command_line.parse(verb, words) == Evaluate(
        str(run.directory),
        ("LengthBeam(size=1)",),
        source=source,
        reference=(*references,),
        checkpoint="0",
    )
    command.run(Evaluate(str(run.directory), source=source, reference=tuple(references[:1])))
    one = results.read(run.directory)[-1]
    assert one["bleu"]["score"] < 100
    assert one["test_hash"] != row["test_hash"]

    with (run.directory / results.FILE_NAME).open("w") as file:
        file.write("")
    results.append(run.directory, {k: v for k, v in row.items() if k != "run"} | {"run": "x"})
    other = Run(shutil.copytree(tiny_runs.autoregressive.directory, tmp_path / "ar"))
    (other.directory / results.FILE_NAME).unlink(missing_ok=True)
    opened = other.load(), Repeating(lines[1])
    opened[1].choice = Choice(Beam())
    monkeypatch.setattr(evaluate, "open_translator", lambda *_: opened)
    test = evaluation_set.of_files(source, references)
    evaluate.evaluate(other, test=test)
    table = compare.compare([other.directory, run.directory], split="files:news.en")
    (mark,) = (line.mark(metrics.METRICS[0]) for line in table.table.lines if line.tests)
    assert mark == "="
    path = run.directory / row["more_references"][0]
    path.write_text("changed\n" * 3, "utf-8")
    with pytest.raises(ValueError, match="has changed since its row"):
        compare.compare([other.directory, run.directory], split="files:news.en")


def test_a_metric_of_one_reference_is_refused_before_any_work(
    run: Run, news: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: object) -> None:
        raise AssertionError("it has begun")

    monkeypatch.setattr(evaluate, "open_translator", work)
    one = metrics.Metric("m", "M", lambda *_: metrics.of_sentences([1.0], "m"))
    source, *references = news
    test = evaluation_set.of_files(source, references)
    with pytest.raises(ValueError, match="M takes one reference a sentence, got 2"):
        evaluate.evaluate(run, test=test, more_metrics=(one,))


def test_a_corpus_of_hugging_face_is_a_test_without_being_prepared(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only its test is loaded: there is no other split. A pair without a source is lost, and the row says so."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    datasets.disable_progress_bars()
    rows = tmp_path / "rows.jsonl"
    pairs = [("a b c d", "A B C D"), ("", "A"), ("b c d a", "B C D A")]
    rows.write_text("".join(json.dumps({"en": en, "de": de}) + "\n" for en, de in pairs), "utf-8")
    path = tmp_path / "hub.py"
    path.write_text(
        "from nat_ar.data.hugging_face import DataFiles, HuggingFace\n"
        f"files = (DataFiles('test', ({str(rows)!r},)),)\n"
        "config = HuggingFace('json', source='en', target='de', data_files=files)\n",
        "utf-8",
    )
    opened = run.load(), Repeating(["A B C D", "B C D A"])
    monkeypatch.setattr(evaluate, "open_translator", lambda *_: opened)
    run = Run(shutil.copytree(run.directory, tmp_path / "run"))
    row = evaluate.evaluate(run, test=str(path))
    assert (row["split"], row["sentences"], row["lost"]) == ("corpus:hub", 2, 1)
    assert row["bleu"]["score"] == pytest.approx(100)
    assert f"--test {path}" in row["command"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "a"}, "expected --source with --reference, got one"),
        ({"reference": ("a",)}, "expected --source with --reference, got one"),
        ({"source": "a", "reference": ("b",), "test": "c"}, "got both"),
        ({"test": "wmt14"}, "expected sacrebleu:NAME, such as sacrebleu:wmt14/full"),
        ({"test": "configs/toy/teacher.py"}, "expected a corpus in `config`.*ExperimentConfig"),
    ],
)
def test_what_names_no_test_is_refused(run: Run, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        command.run(Evaluate(str(run.directory), **options))

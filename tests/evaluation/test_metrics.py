import dataclasses
import math
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
from sacrebleu.metrics import BLEU, CHRF, TER

from nat_ar.evaluation import metrics

REFERENCES = [
    "der Hund schläft im Garten .",
    "die Katze trinkt gern kalte Milch .",
    "wir haben gestern ein altes Buch gelesen .",
    "er kommt morgen nicht .",
] * 25
HYPOTHESES = [
    "der Hund schläft in Garten .",
    "die Katze trinkt kalte kalte Milch .",
    "",
    "er kommt morgen nicht .",
] * 25
LOWER_CASED = BLEU(lowercase=True)


def test_lower_cased_bleu_overlooks_case_and_says_so() -> None:
    (lower,) = (metric for metric in metrics.METRICS if metric.name == "bleu_lc")
    texts = ["a small dog sleeps", "two cats"], ["A small Dog sleeps", "two cats"]
    score = lower.compute(*texts, ["", ""])
    assert score.score == pytest.approx(100)
    assert "case:lc" in score.signature
    cased = metrics.METRICS[0].compute(*texts, ["", ""])
    assert cased.score < 60
    assert "case:mixed" in cased.signature


def test_references_against_themselves_score_perfectly() -> None:
    assert metrics.bleu(REFERENCES, REFERENCES).score == pytest.approx(100)
    assert metrics.chrf(REFERENCES, REFERENCES).score == pytest.approx(100)
    assert metrics.ter(REFERENCES, REFERENCES).score == 0


def test_bleu_of_one_changed_word_by_hand() -> None:
    # "a b c d e" against "a b c d f": precisions 4/5, 3/4, 2/3, 1/2, equal lengths
    expected = 100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    assert metrics.corpus_bleu(["a b c d e"], ["a b c d f"]) == pytest.approx(expected)


def test_an_empty_hypothesis_counts() -> None:
    # All precisions are 1; the brevity penalty for 4 of 8 tokens is exp(1 - 8 / 4).
    texts = ["a b c d", "e f g h"]
    assert metrics.corpus_bleu(["a b c d", ""], texts) == pytest.approx(100 * math.exp(-1))
    assert metrics.ter(["a b c d", ""], texts).score == pytest.approx(50)  # 4 of 8 words missing


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (metrics.bleu, BLEU()),
        (lambda *texts, **options: metrics.bleu(*texts, lowercase=True, **options), LOWER_CASED),
        (metrics.chrf, CHRF(word_order=2)),
        (metrics.ter, TER()),
    ],
)
def test_scores_intervals_and_signatures_are_those_of_sacrebleu(ours, theirs) -> None:
    expected = theirs.corpus_score(HYPOTHESES, [REFERENCES], n_bootstrap=200)
    score = ours(HYPOTHESES, REFERENCES, n_bootstrap=200)
    assert score.score == pytest.approx(expected.score)
    assert (score.high - score.low) / 2 == pytest.approx(expected._ci, abs=1e-3)  # theirs: float32
    assert score.low < score.score < score.high
    assert score.signature == str(theirs.get_signature())
    assert "bs:200|seed:12345" in score.signature


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(metrics.bleu, BLEU()), (metrics.chrf, CHRF(word_order=2)), (metrics.ter, TER())],
)
def test_several_references_are_scored_as_sacrebleu_scores_them(ours, theirs) -> None:
    more = [text.replace("Hund", "Köter").replace("gern", "oft") for text in REFERENCES]
    expected = theirs.corpus_score(HYPOTHESES, [REFERENCES, more], n_bootstrap=200)
    score = ours(HYPOTHESES, [REFERENCES, more], n_bootstrap=200)
    assert score.score == pytest.approx(expected.score)
    assert "nrefs:2" in score.signature
    assert score.signature == str(theirs.get_signature())
    assert metrics.bleu(more, [REFERENCES, more]).score == pytest.approx(100)


def test_a_metric_of_one_reference_refuses_several() -> None:
    one = metrics.Metric("m", "M", lambda *_: metrics.of_sentences([1.0], "m"))
    one.require_references(1)
    with pytest.raises(ValueError, match="M takes one reference a sentence, got 2"):
        one.require_references(2)
    for metric in metrics.METRICS:
        metric.require_references(2)


@pytest.mark.parametrize("metric", [metrics.bleu, metrics.chrf, metrics.ter, metrics.corpus_bleu])
def test_unequal_counts_are_an_error_with_both_counts(metric) -> None:
    with pytest.raises(ValueError, match="2 hypotheses for 3 references"):
        metric(["a", "b"], ["a", "b", "c"])


def test_no_sentences_are_an_error() -> None:
    with pytest.raises(ValueError, match="no sentences"):
        metrics.bleu([], [])


def test_too_few_resamples_are_an_error() -> None:
    with pytest.raises(ValueError, match="n_bootstrap 10 is too few"):
        metrics.bleu(HYPOTHESES, REFERENCES, n_bootstrap=10)


def test_sentence_bleu_uses_effective_order_and_exponential_smoothing() -> None:
    assert metrics.sentence_bleu("danke schön", "danke schön") == pytest.approx(100)
    assert metrics.sentence_bleu("", "danke schön") == 0
    assert metrics.sentence_bleu("bitte", "danke schön") == 0
    # "a b x" against "a b c": 2/3, 1/2, and no trigram of one counts as half a match.
    expected = 100 * (2 / 3 * 1 / 2 * 1 / 2) ** (1 / 3)
    assert metrics.sentence_bleu("a b x", "a b c") == pytest.approx(expected)


def test_bleu_by_group_scores_each_group_as_its_own_corpus() -> None:
    hypotheses = ["a b c d", "x", "a b c d e", "x"]
    references = ["a b c d", "e f g h", "a b c d f", "e f g h"]
    found = metrics.bleu_by_group(hypotheses, references, ["web", "app", "web", "app"])
    assert list(found) == ["app", "web"]
    assert found["app"] == {"sentences": 2, "bleu": 0.0}
    web = metrics.corpus_bleu([hypotheses[0], hypotheses[2]], [references[0], references[2]])
    assert found["web"] == {"sentences": 2, "bleu": pytest.approx(web)}
    with pytest.raises(ValueError, match="1 groups for 4 references"):
        metrics.bleu_by_group(hypotheses, references, ["web"])


def test_length_buckets() -> None:
    lengths = (0, 1, 10, 11, 20, 21, 50, 51, 400)
    expected = ["0", "1-10", "1-10", "11-20", "11-20", "21-30", "41-50", "51+", "51+"]
    assert [metrics.length_bucket(length) for length in lengths] == expected
    short, long = "a b c d", " ".join("abcdefghijkl")
    found = metrics.bleu_by_length([long, short, "x"], [long, short, short])
    assert list(found) == ["1-10", "11-20"]
    assert found["1-10"]["sentences"] == 2
    assert found["11-20"] == {"sentences": 1, "bleu": pytest.approx(100)}


CHINESE = ["我喜欢在下雨天喝热茶。", "这只猫睡在窗台上。", "他昨天买了一本新书。"]
ALMOST = ["我喜欢在下雨天喝冷茶。", "这只狗睡在窗台上。", "他昨天买了一本新书。"]


def test_chinese_is_scored_in_characters_by_every_metric() -> None:
    """By 13a, the files that score 80 here have BLEU 0 and a TER of 67 % of the sentences."""
    assert metrics.corpus_bleu(ALMOST, CHINESE) == 0
    chosen = {metric.name: metric for metric in metrics.of_every_evaluation("zh")}
    bleu = chosen["bleu"].compute(ALMOST, CHINESE, ALMOST)
    assert bleu.score == pytest.approx(BLEU(tokenize="zh").corpus_score(ALMOST, [CHINESE]).score)
    assert bleu.score > 70
    assert "tok:zh" in bleu.signature
    ter = chosen["ter"].compute(ALMOST, CHINESE, ALMOST)
    assert ter.score == pytest.approx(100 * 2 / 30)  # 11 + 9 + 10 characters, two of them wrong
    assert "asian:yes" in ter.signature


def test_identical_systems_are_not_distinguishable() -> None:
    found = metrics.paired_bootstrap([HYPOTHESES], [HYPOTHESES], REFERENCES, n_bootstrap=100)
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_a_system_that_is_better_everywhere_is_significantly_better() -> None:
    found = metrics.paired_bootstrap([REFERENCES], [HYPOTHESES], REFERENCES, n_bootstrap=199)
    assert found.system == pytest.approx(100)
    assert found.baseline == pytest.approx(metrics.corpus_bleu(HYPOTHESES, REFERENCES))
    assert found.difference == pytest.approx(found.system - found.baseline)
    assert 0 < found.low < found.difference < found.high
    assert found.p_value == 1 / 200  # no resample reached the difference
    back = metrics.paired_bootstrap([HYPOTHESES], [REFERENCES], REFERENCES, n_bootstrap=199)
    assert back.difference == -found.difference
    assert back.p_value == found.p_value


def test_one_sentence_more_right_is_not_significant() -> None:
    almost = [REFERENCES[0], *HYPOTHESES[1:]]
    found = metrics.paired_bootstrap([almost], [HYPOTHESES], REFERENCES, n_bootstrap=200)
    assert found.difference > 0
    assert found.p_value > 0.05


def test_a_seed_that_could_have_been_another_takes_the_certainty() -> None:
    """All sentences are alike, so only the seeds vary: 100 and 0 BLEU, a mean of 50 with a standard error of
    (100 - 0) / sqrt(2) / sqrt(2) = 50. Over sentences alone, 50 below the baseline would be certain."""
    references = ["der Hund schläft im Garten ."] * 20
    right, wrong = references, ["nein"] * 20
    found = metrics.paired_bootstrap([right, wrong], [right], references, n_bootstrap=199)
    assert (found.system, found.baseline, found.difference) == pytest.approx((50, 100, -50))
    assert (found.low, found.high) == pytest.approx((-100, 0))
    assert found.p_value > 0.4
    again = metrics.paired_bootstrap([right, wrong], [right], references, n_bootstrap=199)
    assert again == found


def test_seeds_that_agree_are_as_certain_as_one() -> None:
    one = metrics.paired_bootstrap([REFERENCES], [HYPOTHESES], REFERENCES, n_bootstrap=199)
    three = metrics.paired_bootstrap(
        [REFERENCES] * 3, [HYPOTHESES] * 3, REFERENCES, n_bootstrap=199
    )
    assert dataclasses.astuple(three) == pytest.approx(dataclasses.astuple(one))


def test_signatures_are_read() -> None:
    signature = "nrefs:1|bs:1000|seed:12345|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"
    assert metrics.tokenizer_of(signature) == "13a"
    mecab = signature.replace("13a", "ja-mecab-0.996-IPA")
    assert metrics.tokenizer_of(mecab) == "ja-mecab"
    assert (
        metrics.without_bootstrap(signature)
        == "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"
    )
    with pytest.raises(ValueError, match="no tok: field"):
        metrics.tokenizer_of("nrefs:1|case:mixed")


def test_metrics_import_no_jax() -> None:
    code = "import sys, nat_ar.evaluation.metrics, nat_ar.evaluation.table.formats; print('jax' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


TINY = """


from nat_ar.evaluation import metrics

def words_in_common(hypotheses, references, sources):
    assert len(sources) == len(references)
    pairs = zip(hypotheses, references)
    return metrics.of_sentences([len({*h.split()} & {*r.split()}) for h, r in pairs], "words|version:1")

METRICS = (metrics.Metric("words", "words in common", words_in_common, decimals=1),)
"""


def test_a_metric_is_one_file_outside_the_package(tmp_path: Path) -> None:
    path = tmp_path / "words.py"
    path.write_text(TINY)
    chosen = metrics.with_more([path])
    assert [metric.name for metric in chosen] == ["bleu", "bleu_lc", "chrf", "ter", "words"]
    assert metrics.sources(chosen) == (str(path),)
    assert metrics.sources(metrics.METRICS) == ()
    score = chosen[-1].compute(["a b", "a c d"], ["a b", "b c d"], ["x", "y"])
    assert (score.score, score.low, score.high, score.signature) == (2, 2, 2, "words|version:1")
    assert chosen[-1].summary({"score": 2.04, "low": 1.0, "high": 3.0}) == "words in common 2.0"
    assert chosen[0].summary({"score": 2.0, "low": 1.0, "high": 3.0}) == "BLEU 2.00 [1.00, 3.00]"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("METRICS = 3", "expected METRICS, a tuple of"),
        ("", "expected METRICS, a tuple of"),
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        (TINY.replace('"words"', '"Words in common"'), "expected a name of lower-case letters"),
        (TINY.replace('"words"', '"bleu"'), "a metric needs a name of its own, got 2 named 'bleu'"),
    ],
)
def test_a_file_that_holds_no_usable_metric_is_refused(
    tmp_path: Path, code: str, message: str
) -> None:
    path = tmp_path / "words.py"
    path.write_text(code)
    with pytest.raises(ValueError, match=message):
        metrics.with_more([path])
    with pytest.raises(ValueError, match="does not exist"):
        metrics.load(tmp_path / "nowhere.py")


def test_the_interval_of_a_mean_shrinks_with_the_root_of_the_number_of_sentences() -> None:
    few, many = ([0.0, 1.0] * half for half in (50, 200))
    widths = []
    for scores in (few, many):
        score = metrics.of_sentences(scores, "")
        assert score.score == 0.5
        assert score.low is not None
        assert score.high is not None
        widths.append(score.high - score.low)
    assert widths[0] == pytest.approx(2 * 1.96 * 0.5 / 10, rel=0.1)  # sigma / sqrt(100)
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.1)
    with pytest.raises(ValueError, match="no sentences to score"):
        metrics.of_sentences([], "")


def test_the_comet_of_the_docs_scores_by_the_api_of_unbabel_comet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in whose score is the share of a translation's letters in the reference."""
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    (code,) = [c for c in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "comet" in c]
    asked: list[str] = []

    class Model:
        def predict(self, data, batch_size, gpus):
            shares = [len({*d["mt"]} & {*d["ref"]}) / len({*d["mt"]}) for d in data]
            return types.SimpleNamespace(scores=shares, system_score=sum(shares) / len(shares))

    stand_in = types.ModuleType("comet")
    stand_in.download_model = lambda name: asked.append(name) or "path"
    stand_in.load_from_checkpoint = lambda path: Model()
    monkeypatch.setitem(sys.modules, "comet", stand_in)
    (tmp_path / "comet22.py").write_text(code)
    (metric,) = metrics.load(tmp_path / "comet22.py")
    score = metric.compute(["ab", "ab"], ["ab", "ax"], ["x", "y"])
    assert score.score == pytest.approx(0.75)
    assert score.signature == "Unbabel/wmt22-comet-da"
    metric.compute(["ab"], ["ab"], ["x"])
    assert asked == ["Unbabel/wmt22-comet-da"]  # loaded once

import pytest

from nat_ar.config_json import ConfigError
from nat_ar.data import references

CHINESE = ["我喜欢在下雨天喝热茶。", "这只猫睡在窗台上。", "他昨天买了一本新书。"]


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        (None, "13a"),
        ("de", "13a"),
        ("zh", "zh"),
        ("zh-CN", "zh"),
        ("zho_Hans", "zh"),
        ("ja", "ja-mecab"),
        ("KO", "ko-mecab"),
        ("th", "flores200"),
    ],
)
def test_the_tokenizer_follows_from_the_language(language: str | None, expected: str) -> None:
    assert references.tokenizer_of(language) == expected


def test_the_defaults_are_sacrebleus_own() -> None:
    from sacrebleu.metrics import BLEU

    for language, tokenizer in BLEU._TOKENIZER_MAP.items():
        assert references.tokenizer_of(language) == tokenizer


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from sacrebleu.tokenizers import tokenizer_ja_mecab

    monkeypatch.setattr(tokenizer_ja_mecab, "MeCab", None)
    with pytest.raises(ConfigError, match=r"ja-mecab needs the packages .*pip install 'sacrebleu"):
        references.cut.__wrapped__("ja-mecab")


def test_words_are_those_between_spaces_or_of_the_tokenizer() -> None:
    assert [*references.words(["a b, c"], "13a")] == [["a", "b,", "c"]]
    assert [*references.words(["我喜欢茶。"], "zh")] == [["我", "喜", "欢", "茶", "。"]]


def test_references_that_bleu_cannot_score_are_refused() -> None:
    """None of them scores 100 against itself; where a few do, the others still say nothing."""
    with pytest.raises(ValueError, match=r"score BLEU 0, not 100.*data\.corpus\.target_language"):
        references.check(CHINESE, "13a", "test")
    mixed = [*CHINESE, "He said so again : 对 不 起"]
    with pytest.raises(ValueError, match=r"script\s+without spaces.*data\.corpus\.bleu_tokenizer"):
        references.check(mixed, "13a", "test")
    with pytest.raises(ValueError, match="fewer than 4 words"):
        references.check(["Katze", "der Hund"], "13a", "test")


def test_references_that_bleu_can_score_pass() -> None:
    references.check(CHINESE, "zh", "test")
    references.check(["Katze", "der Hund"], "char", "test")
    references.check(["Katze", "der Hund sieht die Katze"], "13a", "test")
    references.check(["나는 비 오는 날에 차를 마신다"], "13a", "test")


def test_text_that_is_not_detokenised_is_counted() -> None:
    tokenised = ["Das Haus ist alt .", "Das Ha@@ us", "Peter &apos;s Haus", "ja , nein", "A @-@ B"]
    assert references.num_tokenised(tokenised) == len(tokenised)
    plain = [
        "Das Haus ist alt.",
        "Est-ce vrai ?",
        "Oui : non !",
        "1 . 5"[:1],
        "ja, nein ...",
        "AT&T",
    ]
    assert references.num_tokenised(plain) == 0

import io
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from nat_ar import config_json, special_tokens
from nat_ar.data import vocabulary
from nat_ar.data.vocabulary import Vocabulary, VocabularyConfig

ENGLISH = [
    f"{first} {second} and the {third}"
    for first in ["small", "friendly", "important", "remembered", "yesterday's", "beautiful"]
    for second in ["house", "question", "answers", "understanding", "travellers", "mountain"]
    for third in ["dog", "weather", "kitchen", "language", "afternoon", "bicycle"]
]
GERMAN = [
    f"{first} {second} und die {third}"
    for first in ["kleine", "freundliche", "wichtige", "vergessene", "gestrige", "schöne"]
    for second in ["Häuser", "Fragen", "Antworten", "Verständnisse", "Reisende", "Berge"]
    for third in ["Hunde", "Wetterlage", "Küche", "Sprachen", "Nachmittage", "Fahrräder"]
]
SIZE = 320


@pytest.fixture(scope="module", params=["unigram", "bpe"])
def joint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    config = VocabularyConfig(size=SIZE, kind=request.param, white_space="keep")
    return vocabulary.train(ENGLISH, GERMAN, tmp_path_factory.mktemp("joint"), config)


@pytest.fixture(scope="module", params=["unigram", "bpe"])
def collapsing(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Vocabulary:
    """Learnt from texts whose white space is untidy."""
    config = VocabularyConfig(size=SIZE, kind=request.param)
    english = [f" {line.replace(' and ', '  and ')}\t" for line in ENGLISH]
    return vocabulary.train(english, GERMAN, tmp_path_factory.mktemp("collapsing"), config)


single_lines = st.text(st.characters(exclude_categories=["Cs"]), max_size=30).filter(
    lambda text: text == vocabulary.one_line(text)
)


@given(single_lines)
@settings(max_examples=300, deadline=None)
def test_any_single_line_comes_back_exactly(joint: Vocabulary, text: str) -> None:
    rows = joint.encode_target([text])
    assert joint.decode_target(rows) == [text]
    assert all(token >= special_tokens.NUM_SPECIAL for token in rows[0])


@pytest.mark.parametrize(
    "text",
    [
        "नमस्ते दुनिया",
        "👩‍👩‍👧 and 🏴󠁧󠁢󠁥󠁮󠁧󠁿",  # zero-width joiners, tag characters
        "  two  spaces,   three ",
        " ",
        "tab\tno-break\xa0space\u3000",
        "<s> </s> <pad> <unk> <mask> <blank> <0x41>",
        "a\u2581b \u2581",  # SentencePiece's own mark of a space
        "\U0010fffd \U0010fffd_ \U0010fffd\u2581",  # our escape character
        "NFC \u00e9, NFD e\u0301, ﬁ, Ⅷ, \ufeff, \ufffd, \0",  # no normalisation
    ],
)
def test_awkward_text_comes_back_exactly(joint: Vocabulary, text: str) -> None:
    rows = joint.encode_target([text, "", text])
    assert rows == joint.encode_source([text, "", text])
    assert joint.decode_target(rows) == [text, "", text]
    assert min(rows[0]) >= special_tokens.NUM_SPECIAL


@pytest.mark.parametrize(
    "text",
    [
        "small dog ",
        "  small dog",
        "small   dog",
        "small\tdog",
        "small\u3000 dog\xa0",
        "\u2003small dog",
    ],
)
def test_white_space_that_nobody_sees_changes_no_token(collapsing: Vocabulary, text: str) -> None:
    tidy = ["small dog"]
    assert collapsing.encode_source([text]) == collapsing.encode_source(tidy)
    assert collapsing.encode_target([text]) == collapsing.encode_target(tidy)
    assert collapsing.decode_target(collapsing.encode_target([text])) == tidy


@pytest.mark.parametrize("collapsing", ["bpe"], indirect=True)
def test_untidy_texts_teach_the_same_vocabulary_as_tidy_ones(
    collapsing: Vocabulary, tmp_path: Path
) -> None:
    tidy = vocabulary.train(ENGLISH, GERMAN, tmp_path, VocabularyConfig(size=SIZE, kind="bpe"))
    assert collapsing.hash == tidy.hash


@given(single_lines)
@settings(max_examples=100, deadline=None)
def test_any_single_line_comes_back_but_for_its_white_space(
    collapsing: Vocabulary, text: str
) -> None:
    rows = collapsing.encode_target([text])
    assert collapsing.decode_target(rows) == [" ".join(text.split())]


def test_a_blank_text_has_no_tokens_where_white_space_collapses(
    collapsing: Vocabulary, joint: Vocabulary
) -> None:
    blank = ["", " ", " \t ", "\u3000"]
    assert collapsing.encode_source(blank) == [[]] * 4
    assert [bool(row) for row in joint.encode_source(blank)] == [False, True, True, True]


def test_a_vocabulary_remembers_what_becomes_of_white_space(
    collapsing: Vocabulary, joint: Vocabulary, tmp_path: Path
) -> None:
    """In the files that runs, prepared data and exports copy; a config from before the choice kept it all."""
    for name, words in (("collapse", collapsing), ("keep", joint)):
        words.save(tmp_path / name)
        assert words.white_space == Vocabulary.load(tmp_path / name).white_space == name
    stored = config_json.to_json(VocabularyConfig())
    assert stored.pop("white_space") == "collapse"
    assert config_json.from_json(VocabularyConfig, stored).white_space == "keep"


def test_batch_and_single_agree(joint: Vocabulary) -> None:
    rows = joint.encode_source(ENGLISH[:3])
    assert rows == [joint.encode_source([text])[0] for text in ENGLISH[:3]]
    assert joint.decode_target(rows) == ENGLISH[:3]
    assert joint.encode_source([]) == joint.decode_target([]) == []


def test_special_ids_stand_where_the_models_expect_them(joint: Vocabulary) -> None:
    pieces = joint.target_pieces(range(7))
    assert pieces == ["<pad>", "<s>", "</s>", "<unk>", "<mask>", "<blank>", "<0x00>"]
    assert joint.source_size == joint.target_size == SIZE


def test_special_ids_are_silent_in_text(joint: Vocabulary) -> None:
    row = joint.encode_target(["schöne Küche"])[0]
    padded = np.array(
        [
            special_tokens.BOS,
            *row,
            special_tokens.BLANK,
            special_tokens.MASK,
            special_tokens.EOS,
            special_tokens.PAD,
        ]
    )
    assert joint.decode_target([padded]) == ["schöne Küche"]


def test_a_translation_is_always_one_line(joint: Vocabulary) -> None:
    line_feed = joint.target_pieces(range(SIZE)).index("<0x0A>")
    row = joint.encode_target(["Berge"])[0]
    assert joint.decode_target([[*row, line_feed, *row]]) == ["Berge  Berge"]
    assert vocabulary.one_line("a\r\nb\u2028c\x85d") == "a b c d"


def test_ids_outside_are_an_error(joint: Vocabulary) -> None:
    with pytest.raises(ValueError, match=f"{SIZE}: expected 0 to {SIZE - 1}"):
        joint.decode_target([[SIZE]])
    with pytest.raises(ValueError, match="ids from -1"):
        joint.decode_target([[-1], []])


def test_separate_vocabularies_differ_and_load_again(tmp_path: Path) -> None:
    config = VocabularyConfig(size=310, joint=False)
    words = vocabulary.train(ENGLISH, GERMAN, tmp_path / "a", config)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "source.model",
        "target.model",
    ]
    assert not words.joint
    assert words.encode_source(["the answers"]) != words.encode_target(["the answers"])
    (row,) = words.encode_source(["the answers"])
    assert "".join(words.source_pieces(row)) == "\u2581the\u2581answers"
    assert words.decode_target(words.encode_target(["die Antwort"])) == ["die Antwort"]
    words.save(tmp_path / "b")
    again = Vocabulary.load(tmp_path / "b")
    assert again == words
    assert again.hash == words.hash


def test_the_hash_depends_on_the_text_only(tmp_path: Path, joint: Vocabulary) -> None:
    first = vocabulary.train(ENGLISH, GERMAN, tmp_path / "a", VocabularyConfig(size=SIZE))
    second = vocabulary.train(ENGLISH, GERMAN, tmp_path / "b", VocabularyConfig(size=SIZE))
    other = vocabulary.train(GERMAN, ENGLISH[:-1], tmp_path / "c", VocabularyConfig(size=SIZE))
    assert first.hash == second.hash != other.hash
    joint.save(tmp_path / "d")
    assert Vocabulary.load(tmp_path / "d").joint


def test_without_byte_fallback_strange_characters_are_unknown(tmp_path: Path) -> None:
    config = VocabularyConfig(size=60, byte_fallback=False)
    words = vocabulary.train(ENGLISH, GERMAN, tmp_path, config)
    assert special_tokens.UNK in words.encode_source(["the ☃"])[0]
    assert words.decode_target(words.encode_source(["small dog"])) == ["small dog"]


def test_a_vocabulary_larger_than_the_text_says_the_largest(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"joint vocabulary: size 8000 .* largest .* is (\d+)"
    ) as e:
        vocabulary.train(ENGLISH, GERMAN, tmp_path, VocabularyConfig(size=8000))
    largest = int(str(e.value).split("possible size is ")[1].split(":")[0])
    words = vocabulary.train(ENGLISH, GERMAN, tmp_path, VocabularyConfig(size=largest))
    assert words.source_size == largest


def test_a_vocabulary_smaller_than_the_alphabet_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="too small for the characters"):
        vocabulary.train(ENGLISH, GERMAN, tmp_path, VocabularyConfig(size=270))
    with pytest.raises(ValueError, match="expected at least 263"):
        VocabularyConfig(size=200)


def test_foreign_and_missing_models_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"source\.model is missing"):
        Vocabulary.load(tmp_path)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(ENGLISH), model_writer=model, vocab_size=40, minloglevel=2
    )
    (tmp_path / "joint.model").write_bytes(model.getvalue())
    with pytest.raises(ValueError, match=r"joint\.model: expected PAD BOS EOS UNK MASK BLANK"):
        Vocabulary.load(tmp_path)
    (tmp_path / "joint.model").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"joint\.model: not a SentencePiece model"):
        Vocabulary.load(tmp_path)

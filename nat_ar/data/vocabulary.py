"""Subword vocabularies: SentencePiece with our reserved ids, exact in both directions.

Text is not normalised, but for its white space where the config says so: with `byte_fallback`, decode(encode(text)) is
collapsed(text), or with white_space "keep" the text itself, for every single-line text. No text is encoded to an id
below `special_tokens.NUM_SPECIAL`, not even a literal "<s>"."""

import dataclasses
import functools
import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import sentencepiece

from nat_ar import config_json, special_tokens
from nat_ar.config_json import ConfigError
from nat_ar.data import ragged, segmentations
from nat_ar.data.segmentations import Segmentations

Side = Literal["source", "target"]
WhiteSpace = Literal["collapse", "keep"]
TokenIds = Sequence[int] | np.ndarray
"""One sentence's ids, as a list or an integer array of one dimension."""

_LINE_BREAK = re.compile("\r\n|[\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029]")
"""What `str.splitlines` breaks at."""

# SentencePiece represents a space as U+2581, so that a U+2581 in the text would be decoded as a space. Before
# encoding, U+2581 becomes ESCAPE + "_", and ESCAPE itself, the last private-use code point, ESCAPE + ESCAPE;
# decoding reverses both.
_SPACE_MARK = "\u2581"
_ESCAPE = "\U0010fffd"
_ESCAPED = re.compile(_ESCAPE + f"([_{_ESCAPE}])")

_SENTENCEPIECE_THREADS = 16
"""Fixed, whatever the machine's cores: the model records it, and its sums depend on it, hence its hash."""
_SENTENCEPIECE_LINE_BYTES = 1 << 20
"""Longer lines are skipped silently; the default is 4192 bytes."""


@dataclasses.dataclass(frozen=True)
class VocabularyConfig(config_json.Config):
    """How the subword vocabulary is learnt. Only the training split is used."""

    size: int = 8000
    """number of ids, of each side if not joint; includes the 6 special ones and the 256 bytes of `byte_fallback`"""
    kind: Literal["unigram", "bpe"] = "unigram"
    """how SentencePiece learns: unigram language model or byte-pair encoding"""
    joint: bool = True
    """one vocabulary for both languages, as tying or copying embeddings across them needs"""
    byte_fallback: bool = True
    """encode characters outside the vocabulary as bytes, so that no text becomes UNK"""
    character_coverage: float = 1.0
    """share of the characters' occurrences that get ids of their own; 0.9995 suits Chinese or Japanese"""
    max_training_sentences: int = 200_000
    """learn from at most this many sentences a side, evenly spaced in the training split; unigram takes
    some 26 bytes of memory for each of their characters"""
    white_space: WhiteSpace = "collapse"
    """what a model sees of white space, on both sides: each run as one space and none at the ends ("collapse"), or
    every character ("keep"). The vocabulary remembers it, for training, translating and exports; text files stay as
    they are"""

    @classmethod
    def upgraded(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Once, every character was kept."""
        return {"white_space": "keep", **data}

    def __post_init__(self) -> None:
        if not 0.9 <= self.character_coverage <= 1.0:
            raise ConfigError(
                f"character_coverage {self.character_coverage}: expected between 0.9 and 1.0"
            )
        smallest = special_tokens.NUM_SPECIAL + 256 * self.byte_fallback + 1
        if self.size < smallest:
            raise ConfigError(
                f"vocabulary size {self.size}: expected at least {smallest} "
                f"({special_tokens.NUM_SPECIAL} special ids"
                f"{', 256 bytes' if self.byte_fallback else ''} and a character)"
            )
        if self.max_training_sentences < 1:
            raise ConfigError(
                f"max_training_sentences {self.max_training_sentences}: expected at least 1"
            )


def one_line(text: str) -> str:
    """`text` with every line break of `str.splitlines` replaced by a space."""
    return _LINE_BREAK.sub(" ", text)


def collapsed(text: str) -> str:
    """`text` with a space for each run of white space, and none at its ends."""
    return " ".join(text.split())


def train(
    source: Iterable[str], target: Iterable[str], directory: Path, config: VocabularyConfig
) -> "Vocabulary":
    """Learns from single-line texts and writes joint.model, or source.model and target.model.

    The same texts in the same order give the same bytes. Raises ValueError if the texts cannot fill `config.size`
    ids, rather than make a smaller vocabulary than the config states."""
    directory.mkdir(parents=True, exist_ok=True)
    texts: dict[str, Iterable[str]] = {"source": source, "target": target}
    if config.joint:
        texts = {"joint": (text for side in (source, target) for text in side)}
    for name, lines in texts.items():
        (directory / f"{name}.model").write_bytes(_train_model(name, lines, config))
    return Vocabulary.load(directory)


def _train_model(name: str, lines: Iterable[str], config: VocabularyConfig) -> bytes:
    model = io.BytesIO()
    collapses = config.white_space == "collapse"
    try:
        # An iterator and a writer instead of paths: the model records its arguments, and its hash must not depend
        # on where it was made.
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(_escape(collapsed(line) if collapses else line) for line in lines),
            model_writer=model,
            vocab_size=config.size,
            model_type=config.kind,
            byte_fallback=config.byte_fallback,
            character_coverage=config.character_coverage,
            pad_id=special_tokens.PAD,
            bos_id=special_tokens.BOS,
            eos_id=special_tokens.EOS,
            unk_id=special_tokens.UNK,
            control_symbols=["<mask>", "<blank>"],
            normalization_rule_name="identity",
            remove_extra_whitespaces=collapses,  # the model keeps it: see Vocabulary.white_space
            max_sentence_length=_SENTENCEPIECE_LINE_BYTES,
            num_threads=_SENTENCEPIECE_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(_explain(name, str(error), config)) from error
    return model.getvalue()


def _explain(name: str, message: str, config: VocabularyConfig) -> str:
    if largest := re.search(r"set it to a value <= (\d+)", message):
        return (
            f"{name} vocabulary: size {config.size} is more than the training text can fill; "
            f"the largest possible size is {largest[1]}: set vocabulary.size to that or less"
        )
    if needed := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return (
            f"{name} vocabulary: size {config.size} is too small for the characters of the training "
            f"text: set vocabulary.size to more than {needed[1]}, or lower character_coverage"
        )
    return f"{name} vocabulary: SentencePiece could not be trained: {message}"


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The trained models of both sides; the same model twice if `joint`."""

    source_model: bytes = dataclasses.field(repr=False)
    target_model: bytes = dataclasses.field(repr=False)

    @classmethod
    def load(cls, directory: Path) -> "Vocabulary":
        """Reads what `train` or `save` wrote. Raises ValueError that names the file at fault."""
        joint = directory / "joint.model"
        names = ["joint", "joint"] if joint.exists() else ["source", "target"]
        models = []
        for path in [directory / f"{name}.model" for name in names]:
            if not path.exists():
                raise ValueError(
                    f"{directory}: expected joint.model, or source.model and target.model; "
                    f"{path.name} is missing"
                )
            model = path.read_bytes()
            _check_special_ids(_processor(model, str(path)), path)
            models.append(model)
        return cls(*models)

    def save(self, directory: Path) -> None:
        """Writes joint.model, or source.model and target.model."""
        directory.mkdir(parents=True, exist_ok=True)
        if self.joint:
            (directory / "joint.model").write_bytes(self.source_model)
        else:
            (directory / "source.model").write_bytes(self.source_model)
            (directory / "target.model").write_bytes(self.target_model)

    @property
    def joint(self) -> bool:
        """Whether an id means the same piece on both sides."""
        return self.source_model == self.target_model

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of both models' bytes."""
        digest = hashlib.sha256()
        for model in (self.source_model, self.target_model):
            digest.update(hashlib.sha256(model).digest())
        return digest.hexdigest()

    @functools.cached_property
    def _source(self) -> sentencepiece.SentencePieceProcessor:
        return _processor(self.source_model, "source vocabulary")

    @functools.cached_property
    def _target(self) -> sentencepiece.SentencePieceProcessor:
        return self._source if self.joint else _processor(self.target_model, "target vocabulary")

    @property
    def source_size(self) -> int:
        """Ids of the source side, special ids included."""
        return self._source.vocab_size()

    @property
    def target_size(self) -> int:
        """Ids of the target side, special ids included."""
        return self._target.vocab_size()

    @functools.cached_property
    def white_space(self) -> WhiteSpace:
        """As it was learnt. SentencePiece itself then collapses U+0020, by what its model says; we, all the others."""
        return "keep" if self._source.encode(" ") else "collapse"

    def encode_source(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without BOS and EOS."""
        return _encode(self._source, self._seen(texts))

    def encode_target(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without BOS and EOS."""
        return _encode(self._target, self._seen(texts))

    def _seen(self, texts: Sequence[str]) -> Sequence[str]:
        """The texts as the models get them."""
        return [collapsed(text) for text in texts] if self.white_space == "collapse" else texts

    def segmentations(
        self,
        side: Side,
        texts: Sequence[str],
        *,
        kind: Literal["unigram", "bpe"],
        alpha: float,
        generator: np.random.Generator,
    ) -> Segmentations:
        """All ways in which the texts may be cut; see SubwordRegularisation. `kind`: as the vocabulary was learnt."""
        processor = self._source if side == "source" else self._target
        return _segmentations(processor, self._seen(texts), kind, alpha, generator)

    def decode_target(self, rows: Iterable[TokenIds]) -> list[str]:
        """Text of each row of ids, always one line; special ids are left out, but UNK becomes " ⁇ ".

        Raises ValueError for an id outside the vocabulary."""
        return _decode(self._target, rows)

    def source_pieces(self, row: TokenIds) -> list[str]:
        """The pieces of the ids, for display and for external aligners."""
        return [self._source.id_to_piece(int(token)) for token in row]

    def target_pieces(self, row: TokenIds) -> list[str]:
        """The pieces of the ids, for display and for external aligners."""
        return [self._target.id_to_piece(int(token)) for token in row]


def _processor(model: bytes, name: str) -> sentencepiece.SentencePieceProcessor:
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=model)
    except (RuntimeError, OSError) as error:
        raise ValueError(f"{name}: not a SentencePiece model ({error})") from error


def _check_special_ids(processor: sentencepiece.SentencePieceProcessor, path: Path) -> None:
    expected = [
        special_tokens.PAD,
        special_tokens.BOS,
        special_tokens.EOS,
        special_tokens.UNK,
        special_tokens.MASK,
        special_tokens.BLANK,
    ]
    got = [processor.pad_id(), processor.bos_id(), processor.eos_id(), processor.unk_id()]
    got += [processor.piece_to_id("<mask>"), processor.piece_to_id("<blank>")]
    if got != expected:
        raise ValueError(
            f"{path}: expected PAD BOS EOS UNK MASK BLANK at {expected}, got {got}; "
            "train the vocabulary with nat_ar"
        )


def _escape(text: str) -> str:
    if _SPACE_MARK not in text and _ESCAPE not in text:
        return text
    return text.replace(_ESCAPE, _ESCAPE + _ESCAPE).replace(_SPACE_MARK, _ESCAPE + "_")


def _unescape(text: str) -> str:
    if _ESCAPE not in text:
        return text
    return _ESCAPED.sub(lambda match: _SPACE_MARK if match[1] == "_" else _ESCAPE, text)


def _encode(
    processor: sentencepiece.SentencePieceProcessor, texts: Sequence[str]
) -> list[list[int]]:
    escaped = [_escape(text) for text in texts]
    if len(escaped) == 1:  # skips the thread pool: 2 instead of 70 microseconds
        return [processor.encode(escaped[0], out_type=int)]
    return processor.encode(escaped, out_type=int) if escaped else []


def _segmentations(
    processor: sentencepiece.SentencePieceProcessor,
    texts: Sequence[str],
    kind: Literal["unigram", "bpe"],
    alpha: float,
    generator: np.random.Generator,
) -> Segmentations:
    escaped = [_escape(text) for text in texts]
    dtype = ragged.token_type(processor.vocab_size())
    return segmentations.of_texts(
        escaped, processor, kind=kind, alpha=alpha, generator=generator, dtype=dtype
    )


def _decode(processor: sentencepiece.SentencePieceProcessor, rows: Iterable[TokenIds]) -> list[str]:
    size = processor.vocab_size()
    lists = [np.asarray(row, np.int64).tolist() for row in rows]
    for row in lists:
        if row and not 0 <= min(row) <= max(row) < size:
            raise ValueError(
                f"ids from {min(row)} to {max(row)}: expected 0 to {size - 1}, the ids of this "
                "vocabulary; mask the padding of the model's output layer"
            )
    if len(lists) == 1:
        texts = [processor.decode(lists[0]) if lists[0] else ""]
    else:
        texts = processor.decode(lists) if lists else []
    return [one_line(_unescape(text)) for text in texts]

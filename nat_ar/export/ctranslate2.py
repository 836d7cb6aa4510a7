"""A run as a model of CTranslate2 (github.com/OpenNMT/CTranslate2), an engine for deployment, and that engine under our
rules of text.

The only file that imports the package `ctranslate2`, a development dependency, and only when it is needed. The one
method with a counterpart there is `Autoregressive`. Weights are copied unchanged, so that log-probabilities are equal;
`search_options` makes the engine's search follow our rules."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from flax import nnx
from jaxtyping import Float

from nat_ar.config_json import ConfigError
from nat_ar.data.vocabulary import Vocabulary
from nat_ar.methods.autoregressive import Autoregressive, AutoregressiveModel
from nat_ar.methods.base import Method
from nat_ar.nn import attention, layers, transformer
from nat_ar.nn.attention import Full
from nat_ar.runtime import extras, files
from nat_ar.search import limits
from nat_ar.search.beam import Beam
from nat_ar.search.greedy import Greedy
from nat_ar.translation.model import Model
from nat_ar.translation.translator import BUCKETS

Quantization = Literal[
    "int8",
    "int8_float32",
    "int8_float16",
    "int8_bfloat16",
    "int16",
    "float16",
    "bfloat16",
    "float32",
]
"""How CTranslate2 may store weights; float32 is how we have them."""

LONGEST_SOURCE = BUCKETS[-1] - 1
"""source tokens that a translator takes, EOS not counted"""

USAGE = r"""
import json, pathlib, re
import ctranslate2, sentencepiece

directory = pathlib.Path("DIR")
card = json.loads((directory / "card.json").read_text("utf-8"))
source, target = (
    sentencepiece.SentencePieceProcessor(model_file=str(directory / name)) for name in card["vocabulary"]
)
engine = ctranslate2.Translator(str(directory))
escape, space_mark = "\U0010fffd", "\u2581"

def translate(line):
    if not line.strip():
        return ""
    if card["white_space"] == "collapse":
        line = " ".join(line.split())
    text = line.replace(escape, 2 * escape).replace(space_mark, escape + "_")
    pieces = source.encode(text, out_type=str)[: card["longest_source"]]
    (result,) = engine.translate_batch([pieces], **card["options"])
    text = target.decode(result.hypotheses[0])
    return re.sub(f"{escape}([_{escape}])", lambda x: space_mark if x[1] == "_" else escape, text)
"""
"""For the card: `translate` of one line. A test runs it as it is."""

NOTES = (
    "A source is the pieces of one line, without </s>: the engine adds it. A blank line is not translated.",
    "white_space is what the pieces show of it: collapse (each run as one space, none at the ends) or keep.",
    "SentencePiece writes a space as U+2581. A U+2581 in the text, and the escape U+10FFFD, are escaped before "
    "encoding and restored after decoding, as in usage.",
    "options are the search of this run; with return_end_token, </s> is part of the length that divides a score.",
    "nat_ar ends a translation at 2 * (source pieces + 1) + 10 pieces; max_decoding_length is that number for "
    "the longest source, and one more for </s>.",
    "nat_ar never produces <pad>, <s>, <mask> and <blank>. A trained model does not either; to forbid them, pass "
    "suppress_sequences: scores then differ by the small probability that these had.",
    "With no_repeat_ngram_size the engine gives the probability of a blocked token to the others, nat_ar does not: "
    "scores, and at times the best of a beam, differ.",
)


def write(
    model: Model,
    method: Method,
    vocabulary: Vocabulary,
    directory: Path,
    *,
    decoding: Any,
    quantization: Quantization | None,
    identity: dict[str, Any],
) -> None:
    """Fills an empty directory: the model, the SentencePiece models, card.json with `identity` and how to use it.

    Raises ConfigError if the method or the decoding has no counterpart, or the package is missing."""
    autoregressive = check(method, decoding)
    package = _package()
    specification = _specification(package.specs, model, autoregressive, vocabulary)
    specification.validate()
    specification.optimize(quantization=quantization)
    specification.save(str(directory))
    vocabulary.save(directory)
    names = ["joint"] * 2 if vocabulary.joint else ["source", "target"]
    card = {
        **identity,
        "engine": f"ctranslate2 {package.__version__}",
        "quantization": quantization or "float32",
        "vocabulary": [f"{name}.model" for name in names],
        "white_space": vocabulary.white_space,
        "longest_source": LONGEST_SOURCE,
        "options": {
            **search_options(decoding),
            "max_decoding_length": limits.length_limit(LONGEST_SOURCE + 1) + 1,
        },
        "notes": NOTES,
        "usage": USAGE.strip().splitlines(),
    }
    text = json.dumps(files.signed(card), indent=2) + "\n"
    files.write_text(directory / "card.json", text)


def check(method: Method, decoding: Any) -> Autoregressive:
    """The method itself. Raises ConfigError if it or the decoding has no counterpart, or the package is missing."""
    if not isinstance(method, Autoregressive):
        raise ConfigError(
            f"--format ctranslate2 takes Autoregressive runs, got {type(method).__name__}; "
            "--format stablehlo takes every method"
        )
    if not isinstance(decoding, Greedy | Beam):
        raise ConfigError(
            f"--format ctranslate2 knows Greedy and Beam, got {decoding}; give one of them as --decoding, "
            "or take --format stablehlo"
        )
    transformer = method.transformer
    if type(transformer.attention) is not Full or not transformer.positions.is_added:
        raise ConfigError(
            "--format ctranslate2 has attention Full and positions that are added to embeddings, got "
            f"{transformer.attention} and {transformer.positions}; --format stablehlo takes every method"
        )
    if transformer.encoder_attention != "bidirectional":
        raise ConfigError(
            "--format ctranslate2 has bidirectional encoders, got encoder_attention "
            f"{transformer.encoder_attention!r}; --format stablehlo takes every method"
        )
    if transformer.decoder_positions != "once" or transformer.decoder_memory != "last_layer":
        raise ConfigError(
            "--format ctranslate2 adds positions once and reads the last encoder layer, got decoder_positions "
            f"{transformer.decoder_positions!r} and decoder_memory {transformer.decoder_memory!r}; --format stablehlo "
            "takes every method"
        )
    _package()
    return method


def search_options(decoding: Greedy | Beam) -> dict[str, Any]:
    """Arguments of ctranslate2.Translator.translate_batch under which it searches as we do.

    With return_end_token, </s> is part of the length, and a score is log p / length ** length_penalty on both sides. A
    beam stops when `size` hypotheses have finished (patience 1) and may return an empty one (min_decoding_length 0).
    With a length penalty of 0 CTranslate2 stops as soon as the best hypothesis finishes: the best is the same, an
    n-best list may differ.

    PAD, BOS, MASK and BLANK, which we forbid, are not suppressed: a trained model does not produce them, and
    CTranslate2 would give their probability to the other tokens, which changes every score a little and sometimes the
    best of a beam (2 of 200 toy sentences). It does the same with tokens that no_repeat_ngram_size blocks."""
    beam = Beam(size=1, length_penalty=0.0) if isinstance(decoding, Greedy) else decoding
    return {
        "beam_size": beam.size,
        "patience": 1,
        "length_penalty": beam.length_penalty,
        "num_hypotheses": beam.n_best,
        "no_repeat_ngram_size": beam.no_repeat_ngram_size,
        "min_decoding_length": 0,
        "return_scores": True,
        "return_end_token": True,
    }


@dataclasses.dataclass(frozen=True)
class Answer:
    """The engine's translations of one sentence; lists are best first."""

    texts: list[str]
    scores: list[float]
    tokens: list[list[int]]


class Engine:
    """CTranslate2 on a directory that `write` filled. It treats text as translation.translator.Translator does."""

    def __init__(
        self,
        directory: Path,
        *,
        device: str = "cpu",
        compute_type: str = "default",
        threads: int = 0,
    ) -> None:
        """`threads` work on one batch; 0: CTranslate2 chooses. `compute_type` default: as stored."""
        self.vocabulary = Vocabulary.load(directory)
        self.translator = _package().Translator(
            str(directory), device=device, compute_type=compute_type, intra_threads=threads
        )
        vocabulary = self.vocabulary
        self.source_pieces = vocabulary.source_pieces(range(vocabulary.source_size))
        pieces = vocabulary.target_pieces(range(vocabulary.target_size))
        self.target_ids = {piece: token for token, piece in enumerate(pieces)}

    def translate(
        self, sentences: Sequence[str], decoding: Greedy | Beam, *, max_rows: int = 64
    ) -> list[Answer]:
        """One Answer for each sentence, in order, in batches of at most max_rows sentences of similar length.

        CTranslate2 has one length limit a call, that of the longest sentence here: a translation that our translator
        would cut may go on."""
        rows = [
            row[:LONGEST_SOURCE] if sentence.strip() else []
            for sentence, row in zip(
                sentences, self.vocabulary.encode_source(sentences), strict=True
            )
        ]
        answers = [Answer([""], [0.0], [[]]) for _ in rows]
        indices = [index for index, row in enumerate(rows) if row]
        longest = max((len(row) for row in rows), default=0)
        results = self.translator.translate_batch(
            [[self.source_pieces[token] for token in rows[index]] for index in indices],
            max_batch_size=max_rows,
            max_decoding_length=limits.length_limit(longest + 1) + 1,
            **search_options(decoding),
        )
        for index, result in zip(indices, results, strict=True):
            tokens = [
                [self.target_ids[piece] for piece in pieces if piece != "</s>"]
                for pieces in result.hypotheses
            ]
            texts = self.vocabulary.decode_target(tokens)
            answers[index] = Answer(texts, [float(score) for score in result.scores], tokens)
        return answers


def _package() -> ModuleType:
    extras.require("ctranslate2", "--format ctranslate2")
    import ctranslate2.specs

    return ctranslate2


def _specification(
    specs: ModuleType, model: Model, method: Autoregressive, vocabulary: Vocabulary
) -> Any:
    """The weights under CTranslate2's names."""
    config = method.transformer
    network: AutoregressiveModel = model.merge(model.leaves)
    source_embedding = network.source_embedding
    if source_embedding is None:
        source_embedding = network.target_embedding
    specification = specs.TransformerSpec.from_config(
        (config.num_encoder_layers, config.num_decoder_layers),
        config.num_heads,
        pre_norm=config.norm == "pre",
    )
    encoder, decoder = specification.encoder, specification.decoder
    encoder.embeddings[0].weight = _array(source_embedding.table)
    decoder.embeddings.weight = _array(network.target_embedding.table)
    decoder.projection.weight = _array(network.target_embedding.table)
    for side, ours in ((encoder, network.encoder), (decoder, network.decoder)):
        side.scale_embeddings = True
        table = ours.positions
        assert table is not None  # as `check` saw to
        side.position_encodings.encodings = np.array(table(config.max_length), np.float32)
        if ours.final_norm is not None:
            _set_norm(side.layer_norm, ours.final_norm)
    for layer, block in zip(encoder.layer, network.encoder.blocks, strict=True):
        _set_self_attention(layer.self_attention, block.attention, block.around_attention)
        _set_feed_forward(layer.ffn, block.feed_forward, block.around_feed_forward)
    for layer, deeper in zip(decoder.layer, network.decoder.blocks, strict=True):
        _set_self_attention(
            layer.self_attention, deeper.self_attention, deeper.around_self_attention
        )
        _set_cross_attention(layer.attention, deeper.cross_attention, deeper.around_cross_attention)
        _set_feed_forward(layer.ffn, deeper.feed_forward, deeper.around_feed_forward)
    specification.register_source_vocabulary(
        vocabulary.source_pieces(range(vocabulary.source_size))
    )
    specification.register_target_vocabulary(
        vocabulary.target_pieces(range(vocabulary.target_size))
    )
    specification.config.add_source_eos = True
    specification.config.layer_norm_epsilon = layers.LAYER_NORM_EPSILON  # its own: 1e-5
    return specification


def _set_self_attention(
    spec: Any, ours: attention.SelfAttention, around: transformer.Residual
) -> None:
    _set_norm(spec.layer_norm, around.norm)
    for linear, map_ in zip(spec.linear, (ours.project, ours.output), strict=True):
        _set_linear(linear, map_)


def _set_cross_attention(
    spec: Any, ours: attention.CrossAttention, around: transformer.Residual
) -> None:
    _set_norm(spec.layer_norm, around.norm)
    for linear, map_ in zip(spec.linear, (ours.query, ours.key_value, ours.output), strict=True):
        _set_linear(linear, map_)


def _set_feed_forward(
    spec: Any, ours: transformer.FeedForward, around: transformer.Residual
) -> None:
    _set_norm(spec.layer_norm, around.norm)
    _set_linear(spec.linear_0, ours.expand)
    _set_linear(spec.linear_1, ours.contract)


def _set_linear(spec: Any, ours: layers.Linear) -> None:
    spec.weight = np.ascontiguousarray(_array(ours.kernel).T)  # there [out, in], here [in, out]
    spec.bias = _array(ours.bias)


def _set_norm(spec: Any, ours: layers.LayerNorm) -> None:
    spec.gamma, spec.beta = _array(ours.scale), _array(ours.bias)


def _array(parameter: nnx.Param) -> Float[np.ndarray, "..."]:
    return np.array(parameter[...], np.float32)  # its own: CTranslate2 quantises in place

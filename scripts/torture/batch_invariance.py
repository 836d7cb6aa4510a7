"""A sentence and the sentences beside it: its translation is the same in every batch."""

import random
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx

from nat_ar.data.vocabulary import Vocabulary
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.catalogue import AnyMethod
from nat_ar.translation import decodings
from nat_ar.translation.model import Model, vocabulary_sizes
from nat_ar.translation.translation import Translation
from nat_ar.translation.translator import Translator
from scripts.torture import models

SIZES = (1, 7, 64)
"""sentences a batch"""
SCALE = 1.5
"""random parameters times this say different things for different sentences (about 30 for 64). At 3.0 they are so
sharp that one bit of every parameter moves a score by 3e-4, and other sums as much; at 1.5 by 2e-6"""
TOLERANCE = 1e-5
"""of scores: absolute below 1, relative above"""


def methods() -> Iterator[tuple[AnyMethod, Any]]:
    """Every method of the catalogue with each of its decodings as it is by default."""
    for method in models.by_default().values():
        for decoding in decodings.decodings_of(type(method)):
            yield method, decoding()


def check(
    method: AnyMethod, decoding: Any, vocabulary: Vocabulary, sentences: list[str], *, seed: int
) -> int:
    """Translates the sentences alone, by sevens, by 64 and in another order; returns the number of
    translations that were compared. Raises AssertionError for other tokens or scores."""
    model = _random(method, vocabulary, seed)
    scorer = None
    if decodings.needs_scorer(method, decoding):
        scorer = _random(Autoregressive(models.TRANSFORMER), vocabulary, seed + 1)

    def translate(rows: int, order: list[int]) -> list[Translation]:
        translator = Translator(
            model,
            vocabulary,
            decoding=decoding,
            scorer=scorer,
            max_rows=rows,
            batch_tokens=64 * 256,
        )
        if rows == SIZES[0]:
            found = [translator.translate([sentences[place]], is_quiet=True)[0] for place in order]
        else:
            found = translator.translate([sentences[place] for place in order], is_quiet=True)
        by_place = dict(zip(order, found, strict=True))
        return [by_place[place] for place in range(len(sentences))]

    straight = list(range(len(sentences)))
    shuffled = random.Random(seed).sample(straight, len(straight))
    expected = translate(SIZES[-1], straight)
    for rows, order in [*((rows, straight) for rows in SIZES[:-1]), (SIZES[-1], shuffled)]:
        for sentence, one, other in zip(sentences, expected, translate(rows, order), strict=True):
            where = f"{type(method).__name__}, {decoding}, {rows} a batch: {sentence!r}"
            assert one.tokens == other.tokens, where
            np.testing.assert_allclose(
                one.scores, other.scores, rtol=TOLERANCE, atol=TOLERANCE, err_msg=where
            )
    return 3 * len(sentences)


def _random(method: AnyMethod, vocabulary: Vocabulary, seed: int) -> Model:
    built = method.build(vocabulary_sizes(vocabulary), rngs=nnx.Rngs(seed))
    graphdef, params = nnx.split(built, nnx.Param)
    return Model(graphdef, jax.tree.map(lambda leaf: SCALE * leaf, params))


def sentences(number: int, *, longest: int, seed: int) -> list[str]:
    """Letters, one to `longest` of them."""
    draw = random.Random(seed)
    return [" ".join(draw.choices("abcdefgh", k=draw.randint(1, longest))) for _ in range(number)]

"""Training pairs in other subwords every epoch: subword regularisation (Kudo 2018, arXiv:1804.10959) where the
vocabulary is a unigram language model, BPE-dropout (Provilkov et al. 2020, arXiv:1910.13267) where it is BPE.

The pieces of an epoch follow from (seed, epoch) alone, so that a resumed run sees those of an uninterrupted one. The
text is always the same: what changes is where it is cut."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool

from nat_ar import config_json
from nat_ar.data.arrays import Split
from nat_ar.data.ragged import Ragged
from nat_ar.data.segmentations import Segmentations
from nat_ar.data.vocabulary import Side, Vocabulary

IsUsable = Callable[[Ragged, Ragged], Bool[np.ndarray, "pairs"]]
"""Source and target pieces to True for the pairs that can be trained on."""


@dataclasses.dataclass(frozen=True)
class SubwordRegularisation(config_json.Config):
    """How much the cuts vary. alpha is, for BPE, the probability by which a merge is left out (in the paper 0.1) and,
    for unigram vocabularies, the power of a segmentation's probability by which it is drawn (in the paper 0.1 to 0.5):
    there, a smaller one varies more. 0: the prepared pieces."""

    source_alpha: float = 0.1
    """of the source"""
    target_alpha: float = 0.1
    """of the target; 0 leaves a student's targets as consistent as its teacher made them"""

    def __post_init__(self) -> None:
        config_json.require_share("subword_regularisation.source_alpha", self.source_alpha)
        config_json.require_share("subword_regularisation.target_alpha", self.target_alpha)


class SampledPieces:
    """The training pairs of each epoch."""

    def __init__(
        self,
        split: Split,
        vocabulary: Vocabulary,
        config: SubwordRegularisation,
        *,
        kind: Literal["unigram", "bpe"],
        seed: int,
        is_usable: IsUsable,
    ) -> None:
        """`kind`: how the vocabulary was learnt. Pairs whose sampled pieces are not usable (too long, say) keep the
        prepared ones, on both sides."""
        self.split, self.vocabulary, self.config = split, vocabulary, config
        self.kind, self.seed, self.is_usable = kind, seed, is_usable

    def epoch(self, number: int) -> tuple[Ragged, Ragged]:
        """Source and target, as many rows as the split has."""
        source, target = self.split.source, self.split.target
        if self._source is not None:
            source = self._source.draw(self._generator("source", number + 1))
        if self._target is not None:
            target = self._target.draw(self._generator("target", number + 1))
        is_usable = self.is_usable(source, target)
        return (
            _where(is_usable, source, self.split.source),
            _where(is_usable, target, self.split.target),
        )

    @functools.cached_property
    def _source(self) -> Segmentations | None:
        return self._ways("source", self.split.source_text, self.config.source_alpha)

    @functools.cached_property
    def _target(self) -> Segmentations | None:
        return self._ways("target", self.split.target_text, self.config.target_alpha)

    def _ways(self, side: Side, texts: Sequence[str], alpha: float) -> Segmentations | None:
        """None: as prepared."""
        if not alpha:
            return None
        generator = self._generator(side, 0)
        return self.vocabulary.segmentations(
            side, texts, kind=self.kind, alpha=alpha, generator=generator
        )

    def _generator(self, side: Side, number: int) -> np.random.Generator:
        """Of the ways of a side (0) and of its epochs (from 1 on)."""
        key = (0 if side == "source" else 1, number)
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))


def _where(condition: Bool[np.ndarray, "rows"], one: Ragged, other: Ragged) -> Ragged:
    if condition.all():
        return one
    sides = zip(condition.tolist(), range(len(one)), strict=True)
    return Ragged.from_rows(
        ((one if holds else other)[row] for holds, row in sides), one.values.dtype
    )

"""Verifying drafts: the words of a left-to-right model, several a pass.

A model that is to say y_1 y_2 ... reads a guess of its own words, and predicts in one pass the word after each. The
first prediction is right, as all that it saw is final. The next one is right if the guess before it was, and so on up
to the first wrong guess: m right guesses give m + 1 final words. Never fewer than one, and none that the model would
not have said alone, one by one (Stern et al. 2018, arXiv:1811.03115, section 3). How guesses are made decides the
speed only.

The same holds for words that are drawn. The noise of a place depends on the sentence and the place alone
(sampling.row_keys), so the word that would be drawn there is known once its prefix is: a guess is accepted where it is
that word, with probability p(guess), and else the word is drawn from what is left. That is rejection sampling with a
draft that is certain of its words (Leviathan et al. 2023, arXiv:2211.17192, with q = 1), and gives the words of
Sampling with the same seed.

Knows token ids and logits only."""

import abc
import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.search import argmax, drafting, limits, sampling
from nat_ar.search.base import Decoding, penalised
from nat_ar.search.greedy import Greedy
from nat_ar.search.sampling import Sampling
from nat_ar.search.step_function import Blocks, Cache
from nat_ar.special_tokens import BOS, EOS, PAD
from nat_ar.types import Hypotheses, Verification, pytree_dataclass

NEAR = 1e-4
"""Two logits nearer than this may change places where sums are added in another order."""

Perturb = Callable[
    [Float[Array, "batch block vocabulary"], Int[Array, "batch block"]],
    Float[Array, "batch block vocabulary"],
]
"""(allowed logits, their places) -> logits whose largest is chosen."""


@pytree_dataclass
class Verified:
    """A pass, as who makes the next draft sees it. Place t of a row holds its word t; BOS is at 0."""

    inputs: Int[Array, "batch places"]
    """what was read: final words, and the draft behind them"""
    predictions: Int[Array, "batch places"]
    """the word after each of `inputs`: what the model says where the block was, the draft's next word elsewhere"""
    position: Int[Array, "batch"]
    """place of the last final word; predictions[position - 1] is that word, and the draft begins behind it"""
    proposals: Int[Array, "batch words"] | None = None
    """words after the last final one by the model's heads, where the decoding uses them"""


@dataclasses.dataclass(frozen=True)
class DraftedDecoding(Decoding, config_json.Open, abc.ABC):
    """A decoding that verifies drafts, several words a pass: those of Greedy(), or of Sampling() with the same
    temperature, top_k and seed."""

    block: int = 8
    """words that a pass verifies, the last one for free: the most that it can add"""
    temperature: float = 0.0
    """0: the most probable word; above it, words are drawn as by Sampling"""
    top_k: int = 0
    """draw among this many most probable tokens; 0: among all"""
    seed: int = 0
    """another seed draws other translations"""

    def __post_init__(self) -> None:
        config_json.require_at_least(1, block=self.block)
        if self.temperature == 0.0 and (self.top_k, self.seed) != (0, 0):
            raise ConfigError(
                f"{type(self).__name__} draws with a temperature above 0 only: expected one beside top_k "
                f"{self.top_k} and seed {self.seed}, got {self.temperature}"
            )
        if self.temperature != 0.0:
            self._sampling()

    def _sampling(self) -> Sampling:
        return Sampling(temperature=self.temperature, top_k=self.top_k, seed=self.seed)

    @property
    def plain(self) -> Greedy | Sampling:
        """The decoding whose words these are."""
        return Greedy() if self.temperature == 0.0 else self._sampling()

    uses_proposals: ClassVar[bool] = False
    """whether the model's own heads draft"""
    needs_draft: ClassVar[bool] = False
    """whether it cannot begin without another model's translation"""

    @property
    def drafter(self) -> str | None:
        """The run whose translations are the drafts; None: no other model takes part."""
        return None

    @property
    def drafting(self) -> str | None:
        """The decoding of that run, as text; None: its own."""
        return None

    @property
    def own_score(self) -> str:
        return penalised("log p", 0.0)

    @abc.abstractmethod
    def guess(
        self, draft: Int[Array, "batch max_length"] | None, batch: int, max_length: int
    ) -> Int[Array, "batch max_length"]:
        """What the first pass verifies, given a draft by another model, if there is one."""

    @abc.abstractmethod
    def redraft(self, verified: Verified) -> Int[Array, "batch places"]:
        """What stands at each place after a pass; final words are put in by the search."""

    def search(
        self,
        blocks: Blocks,
        source: Int[Array, "batch source_length"],
        *,
        max_length: int,
        draft: Int[Array, "batch max_length"] | Blocks | None = None,
    ) -> Hypotheses:
        """Translations of every source row, each within its limits.length_limit and within max_length. `draft` has
        another model's translation of each row, or is another model that goes on from the final words (drafting.py);
        `passes` are those of the blocks alone."""
        length_limits, is_sentence = limits.of_sources(source, max_length)
        perturb = None
        if self.temperature != 0.0:
            keys = sampling.row_keys(source, seed=self.seed)

            def perturb(
                logits: Float[Array, "batch block vocabulary"], places: Int[Array, "batch block"]
            ) -> Float[Array, "batch block vocabulary"]:
                return self._sampling().perturbed(logits, keys, places)

        drafter = draft if isinstance(draft, Blocks) else None
        if isinstance(draft, Blocks):
            guess = jnp.full((source.shape[0], max_length), PAD, jnp.int32)
        else:
            guess = self.guess(draft, source.shape[0], max_length)
        return search(
            blocks,
            guess=guess,
            block=self.block,
            redraft=self.redraft,
            drafter=drafter,
            length_limits=length_limits,
            is_sentence=is_sentence,
            perturb=perturb,
            propose=blocks.propose if self.uses_proposals else None,
        )


@pytree_dataclass
class VerificationState:
    text: Int[Array, "batch places"]
    """BOS, final words, and the draft"""
    position: Int[Array, "batch"]
    log_probability: Float[Array, "batch"]
    is_finished: Bool[Array, "batch"]
    passes: Int[Array, "batch"]
    near_ties: Int[Array, "batch"]
    cache: Cache
    drafter_cache: Cache


def search(
    blocks: Blocks,
    *,
    guess: Int[Array, "batch max_length"],
    block: int,
    redraft: Callable[[Verified], Int[Array, "batch places"]],
    length_limits: Int[Array, "batch"],
    is_sentence: Bool[Array, "batch"],
    drafter: Blocks | None = None,
    perturb: Perturb | None = None,
    propose: Callable[[Cache, Int[Array, "batch"]], Int[Array, "batch words"]] | None = None,
) -> Hypotheses:
    """Tokens and scores of greedy.search, `block` places a pass; stops when all rows have finished.

    `guess` is the first draft, EOS included; with a `drafter` each pass has a draft by it instead. `perturb` None: the
    most probable token, ties to the lowest id. Each row accepts what is right in it and goes on at a position of its
    own. Rows without a sentence are finished from the start."""
    batch, max_length = guess.shape
    places = max_length + 1
    block = min(block, places)
    rows = jnp.arange(batch)[:, None]

    def unfinished(state: VerificationState) -> Bool[Array, ""]:
        return ~state.is_finished.all()

    def verify(state: VerificationState) -> VerificationState:
        # Near the end a block begins early, and reads some final words again.
        start = jnp.minimum(state.position, places - block)
        drafted, drafter_cache = state.text, state.drafter_cache
        if drafter is not None:
            drafted, drafter_cache = drafting.go_on(
                drafter, drafter_cache, drafted, state.position, block - 1
            )
        here = start[:, None] + jnp.arange(block)  # [batch, block], places that are read
        read = drafted[rows, here]
        logits, cache = blocks.extend(read, state.cache, start)
        best = argmax.argmax(logits, limits.NEVER_TEXT)
        chosen, scored = best.tokens, logits
        if perturb is not None:
            scored = perturb(limits.text_logits(logits, may_end=True), here)
            chosen = scored.argmax(axis=-1).astype(jnp.int32)
        must_end = here >= length_limits[:, None]
        chosen = jnp.where(must_end, EOS, chosen)
        gains = jnp.take_along_axis(logits, chosen[..., None], axis=-1)[..., 0] - best.normalisers

        is_new = here >= state.position[:, None]
        ends = chosen == EOS
        next_read = jnp.pad(read[:, 1:], ((0, 0), (0, 1)), constant_values=PAD)
        is_last = is_new & (ends | (next_read != chosen))
        last = is_last.argmax(axis=1)  # index in the block of the last right prediction
        is_accepted = is_new & (jnp.arange(block) <= last[:, None]) & ~state.is_finished[:, None]

        log_probability = state.log_probability
        for i in range(block):  # word by word, as greedy search adds them
            log_probability = log_probability + jnp.where(is_accepted[:, i], gains[:, i], 0.0)
        near_ties = state.near_ties
        if not blocks.is_exact:
            is_near = _is_near(scored, chosen) & ~must_end
            near_ties = near_ties + (is_near & is_accepted).sum(axis=1, dtype=jnp.int32)

        of_draft = jnp.pad(drafted[:, 1:], ((0, 0), (0, 1)), constant_values=PAD)
        index = jnp.arange(places) - start[:, None]  # [batch, places], into the block
        of_block = jnp.take_along_axis(chosen, jnp.clip(index, 0, block - 1), axis=1)
        is_in_block = (index >= 0) & (index < block)
        position = state.position + is_accepted.sum(axis=1, dtype=jnp.int32)
        verified = Verified(
            inputs=drafted,
            predictions=jnp.where(is_in_block, of_block, of_draft),
            position=position,
            proposals=None if propose is None else propose(cache, last),
        )
        is_final = jnp.arange(places) <= position[:, None]
        behind = redraft(verified) if drafter is None else drafted
        text = jnp.where(is_final, shifted(verified.predictions), behind)
        return VerificationState(
            text=jnp.where(state.is_finished[:, None], state.text, text),
            position=position,
            log_probability=log_probability,
            is_finished=state.is_finished | (is_accepted & ends).any(axis=1),
            passes=state.passes + ~state.is_finished,
            near_ties=near_ties,
            cache=cache,
            drafter_cache=drafter_cache,
        )

    start = VerificationState(
        text=jnp.pad(guess, ((0, 0), (1, 0)), constant_values=BOS),
        position=jnp.zeros(batch, jnp.int32),
        log_probability=jnp.zeros(batch),
        is_finished=~is_sentence,
        passes=jnp.zeros(batch, jnp.int32),
        near_ties=jnp.zeros(batch, jnp.int32),
        cache=blocks.cache,
        drafter_cache=None if drafter is None else drafter.cache,
    )
    final = jax.lax.while_loop(unfinished, verify, start)
    # The last of a row's final words is EOS, which may stand behind the last place.
    is_word = jnp.arange(1, places) < final.position[:, None]
    tokens = jnp.where(is_word, final.text[:, 1:], PAD)
    ties = None if blocks.is_exact else final.near_ties
    verification = Verification(final.passes, ties)
    return Hypotheses(tokens[:, None], final.log_probability[:, None], final.passes, verification)


def shifted(predictions: Int[Array, "batch places"]) -> Int[Array, "batch places"]:
    """What stands at each place if every prediction is taken: that of the place before; BOS at 0."""
    return jnp.pad(predictions[:, :-1], ((0, 0), (1, 0)), constant_values=BOS)


def _is_near(
    scored: Float[Array, "batch block vocabulary"], chosen: Int[Array, "batch block"]
) -> Bool[Array, "batch block"]:
    """Whether another allowed token is worth as much as the chosen one, to within NEAR."""
    allowed = limits.text_logits(scored, may_end=True)
    is_other = jnp.arange(scored.shape[-1]) != chosen[..., None]
    others = jnp.where(is_other, allowed, -jnp.inf).max(axis=-1)
    mine = jnp.take_along_axis(scored, chosen[..., None], axis=-1)[..., 0]
    return mine - others < NEAR

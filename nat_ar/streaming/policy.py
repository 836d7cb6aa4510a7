"""How a caption comes about: what is translated when the source goes on, and what of it is shown.

Re-translation (Niehues et al. 2018, arXiv:1808.00491; Arivazhagan et al. 2020, arXiv:2004.03643) translates every
prefix of the source anew, so that any model can caption. Its captions change after they were shown. A policy says by
what they change less: words that are held back, or what the next translation takes from the one before."""

import dataclasses
from collections.abc import Sequence

from nat_ar import config_json
from nat_ar.data.units import Unit, Units, text_of
from nat_ar.evaluation import latency
from nat_ar.search.base import StepwiseDecoding
from nat_ar.search.guided import Bias, Prefix
from nat_ar.streaming import retranslation, waiting
from nat_ar.streaming.retranslation import Retranslator
from nat_ar.streaming.waiting import Waiting
from nat_ar.translation import decodings
from nat_ar.translation.translator import Translator

WORD_START = "\u2581"
"""how SentencePiece's pieces begin at which a word does"""


@dataclasses.dataclass(frozen=True)
class Said:
    """What was made of a source so far."""

    tokens: Sequence[int] = ()
    """of the last translation"""
    output: Units = ()
    """the same as text"""
    shown: Units = ()


@dataclasses.dataclass(frozen=True)
class Policy(config_json.Open):
    """An open kind of setting: a policy in any file may join it."""

    def translator(self, translator: Translator, unit: Unit) -> Translator:
        """What translates; `unit`: of the target. Raises ConfigError where the decoding cannot follow the policy."""
        return translator

    def prepare(self, translator: Translator, said: Said, unit: Unit, *, is_final: bool) -> None:
        """Tells `translator` what it must know before it translates what has been read by now."""
        if isinstance(translator, Retranslator):
            translator.earlier = said.tokens

    def shows(self, output: Units, said: Said, *, is_final: bool) -> Units:
        """What is shown of the next translation. `is_final`: the source has ended."""
        raise NotImplementedError


def unmasked(output: Units, mask_k: int, *, is_final: bool) -> Units:
    """A translation without its last mask_k units, while the source goes on."""
    return output if is_final else output[: max(len(output) - mask_k, 0)]


def appended(output: Units, shown: Units) -> Units:
    """What is shown, and behind it what the translation has from there on: none of it ever goes."""
    return (*shown, *output[len(shown) :])


@dataclasses.dataclass(frozen=True)
class Masking(Policy, config_json.Open):
    """Base of those that hold words back."""

    mask_k: int = 0
    """last words that are not shown while the source goes on: they change most (Arivazhagan et al. 2020)"""

    def __post_init__(self) -> None:
        config_json.require_at_least(0, mask_k=self.mask_k)

    def shows(self, output: Units, said: Said, *, is_final: bool) -> Units:
        return unmasked(output, self.mask_k, is_final=is_final)


@dataclasses.dataclass(frozen=True)
class Retranslate(Masking):
    """Every prefix of the source anew, from nothing."""


@dataclasses.dataclass(frozen=True)
class Redraft(Masking):
    """The words of Retranslate, with the translation before as draft: exact, and one pass where nothing changed."""

    block: int = 4
    """words that a pass verifies"""

    def __post_init__(self) -> None:
        super().__post_init__()
        config_json.require_at_least(1, block=self.block)

    def translator(self, translator: Translator, unit: Unit) -> Translator:
        return Retranslator(translator, retranslation.drafted(translator.decoding, self.block))


@dataclasses.dataclass(frozen=True)
class Biased(Masking):
    """Every prefix anew, inclined to the words of the translation before (search/guided.py); left-to-right models."""

    bias: float = 0.2
    """share of probability that the word of the translation before gets; from 0.5 on greedy search never leaves it"""

    def __post_init__(self) -> None:
        super().__post_init__()
        Bias(self.bias)

    def translator(self, translator: Translator, unit: Unit) -> Translator:
        guide = Bias(self.bias)
        return Retranslator(translator, retranslation.guided(translator.decoding, guide))


@dataclasses.dataclass(frozen=True)
class Appending(Policy, config_json.Open):
    """Base of those whose captions only grow. A left-to-right model goes on from what is shown; of what others say the
    words at the places behind it are taken."""

    def translator(self, translator: Translator, unit: Unit) -> Translator:
        if not isinstance(translator.decoding, StepwiseDecoding):
            return translator
        vocabulary = translator.vocabulary
        pieces = vocabulary.target_pieces(range(vocabulary.target_size))
        may_follow = bytes(unit == "character" or piece.startswith(WORD_START) for piece in pieces)
        guide = Prefix(may_follow)
        return Retranslator(translator, retranslation.guided(translator.decoding, guide))

    def prepare(self, translator: Translator, said: Said, unit: Unit, *, is_final: bool) -> None:
        if isinstance(translator, Retranslator):
            shown = text_of(said.shown, unit)
            (translator.earlier,) = translator.vocabulary.encode_target([shown])


@dataclasses.dataclass(frozen=True)
class AppendOnly(Appending):
    """What is shown stays, right or wrong."""

    mask_k: int = 2
    """last words that are not shown, and free to change, while the source goes on"""

    def __post_init__(self) -> None:
        config_json.require_at_least(0, mask_k=self.mask_k)

    def shows(self, output: Units, said: Said, *, is_final: bool) -> Units:
        return appended(unmasked(output, self.mask_k, is_final=is_final), said.shown)


@dataclasses.dataclass(frozen=True)
class LocalAgreement(Appending):
    """What two translations in a row begin with alike is shown, and stays (Liu et al. 2020, arXiv:2005.11185)."""

    def shows(self, output: Units, said: Said, *, is_final: bool) -> Units:
        agreed = output if is_final else output[: latency.common_prefix(said.output, output)]
        return appended(agreed, said.shown)


@dataclasses.dataclass(frozen=True)
class Wait(Policy):
    """wait-k, of a run with `wait_k` whose decoding is WaitK(k) (Autoregressive) or ChunkWaitK(k) (Ctc): what has been
    written stays. Words are shown as soon as another one begins behind them, and stay even where a wider program rounds
    otherwise."""

    def translator(self, translator: Translator, unit: Unit) -> Translator:
        return waiting.waiting(translator)

    def prepare(self, translator: Translator, said: Said, unit: Unit, *, is_final: bool) -> None:
        assert isinstance(translator, Waiting)
        translator.is_final = is_final

    def shows(self, output: Units, said: Said, *, is_final: bool) -> Units:
        return appended(unmasked(output, 1, is_final=is_final), said.shown)


def choose(text: Policy | str) -> Policy:
    """A policy from its text, such as "Retranslate(mask_k=2)". Raises ConfigError that lists what there is."""
    if isinstance(text, Policy):
        return config_json.check(text, type(text).__name__)
    known = config_json.classes_of((Policy,))
    return decodings.parse_call(text, known, f"expected a policy: {decodings.signatures(known)}")


def policy_text(policy: Policy) -> str:
    """As `choose` reads it and tables show it."""
    return decodings.decoding_text(policy)

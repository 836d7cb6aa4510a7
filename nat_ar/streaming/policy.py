"""How a caption comes about: what is translated when the source goes on, and what of it is shown.

Re-translation (Niehues et al. 2018, arXiv:1808.00491; Arivazhagan et al. 2020, arXiv:2004.03643) translates every
prefix of the source anew, so that any model can caption. Its captions change after they were shown. A policy says by
what they change less: words that are held back, or what the next translation takes from the one before."""

import dataclasses

from nat_ar import config_json
from nat_ar.evaluation import latency
from nat_ar.translation import decodings

Units = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Policy(config_json.Open):
    """An open kind of setting: a policy in any file may join it."""

    def shows(self, output: Units, before: Units, shown: Units, *, is_final: bool) -> Units:
        """What is shown of a translation (`output`), after the translation `before` of which `shown` is on the screen.
        `is_final`: the source has ended."""
        raise NotImplementedError


def unmasked(output: Units, mask_k: int, *, is_final: bool) -> Units:
    """A translation without its last mask_k units, while the source goes on."""
    return output if is_final else output[: max(len(output) - mask_k, 0)]


def appended(output: Units, shown: Units) -> Units:
    """What is shown, and behind it what the translation has from there on: none of it ever goes."""
    return (*shown, *output[len(shown) :])


@dataclasses.dataclass(frozen=True)
class Retranslate(Policy):
    """Every prefix of the source anew, from nothing."""

    mask_k: int = 0
    """last words that are not shown while the source goes on: they change most (Arivazhagan et al. 2020)"""

    def __post_init__(self) -> None:
        config_json.require_at_least(0, mask_k=self.mask_k)

    def shows(self, output: Units, before: Units, shown: Units, *, is_final: bool) -> Units:
        return unmasked(output, self.mask_k, is_final=is_final)


@dataclasses.dataclass(frozen=True)
class AppendOnly(Policy):
    """What is shown stays, right or wrong."""

    mask_k: int = 2
    """last words that are not shown, and free to change, while the source goes on"""

    def __post_init__(self) -> None:
        config_json.require_at_least(0, mask_k=self.mask_k)

    def shows(self, output: Units, before: Units, shown: Units, *, is_final: bool) -> Units:
        return appended(unmasked(output, self.mask_k, is_final=is_final), shown)


@dataclasses.dataclass(frozen=True)
class LocalAgreement(Policy):
    """What two translations in a row begin with alike is shown, and stays (Liu et al. 2020, arXiv:2005.11185)."""

    def shows(self, output: Units, before: Units, shown: Units, *, is_final: bool) -> Units:
        agreed = output if is_final else output[: latency.common_prefix(before, output)]
        return appended(agreed, shown)


def choose(text: Policy | str) -> Policy:
    """A policy from its text, such as "Retranslate(mask_k=2)". Raises ConfigError that lists what there is."""
    known = config_json.classes_of((Policy,))
    if isinstance(text, Policy):
        return config_json.check(text, type(text).__name__)
    return decodings.parse_call(text, known, f"expected a policy: {decodings.signatures(known)}")


def text_of(policy: Policy) -> str:
    """As `choose` reads it and tables show it."""
    return decodings.decoding_text(policy)

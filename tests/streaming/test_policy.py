"""What is shown of translations that change."""

import pytest

from nat_ar.config_json import ConfigError
from nat_ar.evaluation import latency
from nat_ar.streaming import policy
from nat_ar.streaming.policy import AppendOnly, LocalAgreement, Policy, Retranslate, Said

OUTPUTS = [tuple(text.split()) for text in ("a", "a b", "a c", "a c d")]


def shown(chosen: Policy) -> list[str]:
    """What a policy shows of OUTPUTS, of which the last is that of the whole source."""
    texts, said = [], Said()
    for output in OUTPUTS:
        shown = chosen.shows(output, said, is_final=output is OUTPUTS[-1])
        said = Said((), output, shown)
        texts.append(" ".join(shown))
    return texts


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (Retranslate(), ["a", "a b", "a c", "a c d"]),
        (Retranslate(mask_k=1), ["", "a", "a", "a c d"]),
        (Retranslate(mask_k=9), ["", "", "", "a c d"]),
        (AppendOnly(mask_k=0), ["a", "a b", "a b", "a b d"]),  # b was wrong, and stays
        (AppendOnly(mask_k=1), ["", "a", "a", "a c d"]),
        (LocalAgreement(), ["", "a", "a", "a c d"]),
    ],
)
def test_what_is_shown(chosen: Policy, expected: list[str]) -> None:
    assert shown(chosen) == expected


@pytest.mark.parametrize("chosen", [AppendOnly(mask_k=0), AppendOnly(), LocalAgreement()])
def test_what_only_grows_has_no_erasure(chosen: Policy) -> None:
    assert latency.erasure([text.split() for text in shown(chosen)]) == 0


def test_a_policy_is_chosen_by_its_text() -> None:
    for text in (
        "Retranslate()",
        "Retranslate(mask_k=3)",
        "AppendOnly(mask_k=0)",
        "LocalAgreement()",
    ):
        assert policy.policy_text(policy.choose(text)) == text
    assert policy.choose("AppendOnly") == AppendOnly(mask_k=2)
    assert policy.choose(Retranslate(mask_k=1)) == Retranslate(mask_k=1)
    with pytest.raises(
        ConfigError, match=r"expected a policy: Retranslate\(mask_k=0\), .*; got 'Wait"
    ):
        policy.choose("Wait(k=3)")
    with pytest.raises(ConfigError, match="mask_k must be at least 0, got -1"):
        policy.choose("Retranslate(mask_k=-1)")

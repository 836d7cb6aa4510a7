"""Decodings as text: read, written and refused."""

from collections.abc import Callable

import numpy as np
import pytest

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.methods.autoregressive import Autoregressive
from nat_ar.methods.catalogue import AnyMethod
from nat_ar.methods.ctc import Ctc
from nat_ar.methods.decoder_only import DecoderOnly
from nat_ar.methods.fertility_nat import FertilityNat
from nat_ar.methods.joint import Joint
from nat_ar.methods.length_nat import LengthNat
from nat_ar.methods.recurrent import Recurrent
from nat_ar.search import base, limits
from nat_ar.search.base import Decoding
from nat_ar.search.beam import Beam
from nat_ar.search.blockwise import Blockwise
from nat_ar.search.ctc import BestPath, PrefixBeam
from nat_ar.search.dag import GraphBeam, Lookahead, Viterbi
from nat_ar.search.fertility import Argmax, Average, NoisyParallel
from nat_ar.search.greedy import Greedy
from nat_ar.search.jacobi import Jacobi
from nat_ar.search.one_pass import LengthBeam
from nat_ar.search.refinement import Refine
from nat_ar.search.sampling import Sampling
from nat_ar.search.speculative import Speculative
from nat_ar.search.wait_k import WaitK
from nat_ar.translation import decodings
from nat_ar.translation.decodings import Choice
from nat_ar.translation.translator import BUCKETS


@pytest.mark.parametrize(
    ("method", "text", "decoding"),
    [
        (Autoregressive(), None, Beam()),
        (Autoregressive(decoding=Greedy()), None, Greedy()),
        (Autoregressive(), "Greedy", Greedy()),
        (Autoregressive(), " Beam( size = 3 , length_penalty=0.6 )", Beam(3, length_penalty=0.6)),
        (LengthNat(), "LengthBeam(size=5, rescore=True)", LengthBeam(5, rescore=True)),
        (FertilityNat(), "Average()", Average()),
        (FertilityNat(), "NoisyParallel(temperature=0.5)", NoisyParallel(temperature=0.5)),
        (Autoregressive(), "Sampled(seed=1)", Sampling(seed=1)),  # as earlier versions called it
        (Ctc(), "Collapse()", BestPath()),
    ],
)
def test_a_decoding_is_written_as_in_python(
    method: AnyMethod, text: str | None, decoding: object
) -> None:
    assert decodings.parse_decoding(method, text) == decoding


def test_a_decoding_written_out_is_read_back() -> None:
    for method in (Autoregressive(), LengthNat(), FertilityNat()):
        for cls in decodings.decodings_of(type(method)):
            assert decodings.parse_decoding(method, decodings.decoding_text(cls())) == cls()


@pytest.mark.parametrize(
    ("decoding", "score"),
    [
        (Greedy(), "log p, nats"),
        (Sampling(), "log p, nats"),
        (Beam(), "log p / length ** 1.0, nats"),
        (Beam(length_penalty=0.0), "log p, nats"),
        (PrefixBeam(length_penalty=0.5), "log p / length ** 0.5, nats"),
        (BestPath(), "log p of the best path / number of words, nats a word"),
        (Lookahead(), "log p of path and words, nats"),
        (Viterbi(), "log p of path and words / length ** 1.0, nats"),
        (LengthBeam(), "mean log p of the words, nats a word"),
        (Refine(), "mean log p of the words, nats a word"),
        (
            LengthBeam(rescore=True),
            "log p by the rescorer / length ** its rescoring_length_penalty, nats",
        ),
        (Argmax(), "log p of words and fertilities / number of words, nats a word"),
    ],
)
def test_every_decoding_says_what_its_scores_are(decoding: Decoding, score: str) -> None:
    """Sums and means have different names."""
    assert decoding.score == score


@pytest.mark.parametrize("exponent", [-200.0, 200.0, -10.5])
@pytest.mark.parametrize(
    "make",
    [
        lambda x: Beam(length_penalty=x),
        lambda x: PrefixBeam(length_penalty=x),
        lambda x: Viterbi(x),
        lambda x: GraphBeam(length_penalty=x),
        lambda x: Autoregressive(rescoring_length_penalty=x),
        lambda x: Recurrent(rescoring_length_penalty=x),
        lambda x: DecoderOnly(rescoring_length_penalty=x),
        lambda x: Joint(rescoring_length_penalty=x),
    ],
)
def test_a_length_penalty_that_leaves_no_numbers_is_refused(
    make: Callable[[float], object], exponent: float
) -> None:
    """523 ** 200 is infinite: every score was -inf, every line blank, the status 0."""
    with pytest.raises(ConfigError, match=rf"length_penalty must be from .* to 10, got {exponent}"):
        make(exponent)


def test_the_widest_length_penalty_still_orders_the_longest_translations() -> None:
    longest = np.float32(limits.length_limit(BUCKETS[-1]) + 1)
    for exponent in (base.MAX_LENGTH_PENALTY, -base.MAX_LENGTH_PENALTY):
        worst, better = (
            np.float32(log_p) / longest ** np.float32(exponent) for log_p in (-1e4, -1)
        )
        assert np.isfinite(worst)
        assert worst < better < 0


def test_a_choice_that_is_a_default_leaves_no_trace_in_the_text() -> None:
    """Rows of before the choice keep their text."""
    assert decodings.decoding_text(Argmax()) == "Argmax()"
    assert decodings.decoding_text(LengthBeam()) == "LengthBeam(size=1)"
    assert decodings.decoding_text(BestPath()) == "BestPath()"
    assert decodings.decoding_text(BestPath(blank_penalty=0.5)) == "BestPath(blank_penalty=0.5)"
    assert decodings.decoding_text(Argmax(remove_repeats=True)) == "Argmax(remove_repeats=True)"
    cleaned = "NoisyParallel(samples=10, remove_repeats=True)"
    assert decodings.parse_decoding(FertilityNat(), cleaned) == NoisyParallel(remove_repeats=True)


def test_a_decoding_is_read_by_its_earlier_name() -> None:
    for method, old in ((Autoregressive(decoding=Sampling()), "Sampled"), (Ctc(), "Collapse")):
        data = config_json.to_json(method)
        data["decoding"]["type"] = old
        assert config_json.from_json(type(method), data) == method


@pytest.mark.parametrize(
    ("decoding", "text"),
    [
        (Greedy(), "Greedy()"),
        (Beam(), "Beam(size=4)"),  # the first field always: it says how much is searched
        (LengthBeam(5, rescore=True), "LengthBeam(size=5, rescore=True)"),
        (NoisyParallel(2, seed=1, n_best=2), "NoisyParallel(samples=2, seed=1, n_best=2)"),
    ],
)
def test_a_written_decoding_leaves_out_the_defaults(decoding: object, text: str) -> None:
    assert decodings.decoding_text(decoding) == text


def test_a_choice_is_a_decoding_and_the_precision_of_its_weights() -> None:
    method = Autoregressive()
    assert decodings.choose(method, None) == Choice(Beam(), "float32")
    rounded = decodings.choose(method, "Beam(size=3) int8")
    assert rounded == Choice(Beam(3), "int8")
    assert rounded.text == "Beam(size=3) int8"
    assert decodings.choose(method, rounded) == rounded
    assert Choice(Greedy()).text == "Greedy()"
    with pytest.raises(ConfigError, match="expected a decoding of Autoregressive"):
        decodings.choose(method, Choice(BestPath(), "int8"))


def test_each_method_knows_its_decodings() -> None:
    stepwise, drafted = (Greedy, Beam, Sampling, WaitK), (Jacobi, Speculative, Blockwise)
    assert decodings.decodings_of(Autoregressive) == (*stepwise, *drafted)
    assert decodings.decodings_of(LengthNat) == (LengthBeam,)
    assert decodings.decodings_of(FertilityNat) == (Argmax, Average, NoisyParallel)


@pytest.mark.parametrize(
    "text",
    [
        "Beam()",  # of another method
        "Argmax(size=2)",  # no such field
        "NoisyParallel(3)",  # fields have names
        "NoisyParallel(**{'samples': 3})",
        "argmax()",
        "",
        "Argmax(",
        "Argmax() and Average()",
        "Argmax()()",
        "Argmax\0()",
        "__import__('os')",
        "__import__('os').system('false')",
        "NoisyParallel(samples=__import__('os').getpid())",
        "NoisyParallel(samples=[1 for _ in 'a'][0])",
        "(lambda: Argmax())()",
    ],
)
def test_anything_else_is_refused_with_the_choices(text: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        decodings.parse_decoding(FertilityNat(), text)
    message = str(refusal.value)
    for part in ("FertilityNat", "Argmax(", "Average(", "NoisyParallel(samples=10", repr(text)):
        assert part in message
    assert "\n" not in message


def test_a_decoding_that_cannot_be_says_why() -> None:
    with pytest.raises(ConfigError, match="1 <= n_best <= samples, got n_best 3 and samples 2"):
        decodings.parse_decoding(FertilityNat(), "NoisyParallel(samples=2, n_best=3)")


def test_a_rescoring_decoding_needs_a_scorer_unless_the_model_rescores_itself() -> None:
    rescoring = LengthBeam(2, rescore=True)
    assert decodings.needs_scorer(LengthNat(), rescoring)
    assert not decodings.needs_scorer(Joint(), rescoring)
    assert not decodings.needs_scorer(LengthNat(), LengthBeam(2))
    assert not decodings.needs_scorer(Autoregressive(), Greedy())


@pytest.mark.parametrize("value", ["'many'", "None"])
def test_a_value_of_another_type_is_refused_by_the_name_of_its_field(value: str) -> None:
    with pytest.raises(
        ConfigError, match="samples"
    ):  # shape checks of tests say it in words of their own
        decodings.parse_decoding(FertilityNat(), f"NoisyParallel(samples={value})")

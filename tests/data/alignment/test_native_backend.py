"""The passes in C++ against those in NumPy."""

import numpy as np
import pytest
from scipy import special

from nat_ar.data.alignment import aligner, native_backend
from nat_ar.data.alignment.model import AlignerConfig
from nat_ar.data.ragged import Ragged


def generated(seed: int, sentences: int, types: int, longest: int) -> tuple[Ragged, Ragged]:
    """Zipf's source types, each with two translations; targets in about the same order, with words that come from
    nowhere. Some sentences have one token, some no target, some neither side."""
    generator = np.random.default_rng(seed)
    weight = 1 / np.arange(3, types + 3)
    sources: list[list[int]] = []
    targets: list[list[int]] = []
    for _ in range(sentences):
        n = int(generator.integers(1, longest + 1))
        m = max(1, n + int(generator.integers(-3, 4)))
        source = generator.choice(types, n, p=weight / weight.sum())
        j = np.clip(np.arange(m) * n // m + generator.integers(-1, 2, m), 0, n - 1)
        target = (source[j] * 7 + 3 * (generator.random(m) < 0.3)) % types
        target = np.where(generator.random(m) < 0.1, generator.integers(0, types, m), target)
        sources.append(source.tolist())
        targets.append(target.tolist() if generator.random() < 0.98 else [])
    return Ragged.from_rows([*sources, []]), Ragged.from_rows([*targets, []])


@pytest.mark.parametrize("chunk_token_pairs", [5_000, 1_000_000])
@pytest.mark.parametrize("flat_iterations", [0, 5])
@pytest.mark.parametrize("variational_bayes", [False, True])
@pytest.mark.parametrize("optimise_tension", [False, True])
def test_numpy_and_cpp_find_the_same(
    optimise_tension: bool,
    variational_bayes: bool,
    flat_iterations: int,
    chunk_token_pairs: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if native_backend.library() is None:
        pytest.skip("no C++ compiler, or NAT_AR_NATIVE=0")
    source, target = generated(0, sentences=3_000, types=400, longest=12)
    config = AlignerConfig(
        flat_iterations=flat_iterations,
        optimise_tension=optimise_tension,
        variational_bayes=variational_bayes,
        chunk_token_pairs=chunk_token_pairs,
    )
    cpp = aligner.train(source, target, config, source_size=400, target_size=400)
    links = aligner.link(cpp, source, target)
    monkeypatch.setattr(native_backend, "library", lambda: None)
    numpy = aligner.train(source, target, config, source_size=400, target_size=400)

    np.testing.assert_array_equal(cpp.keys, numpy.keys)
    np.testing.assert_allclose(cpp.log_likelihoods, numpy.log_likelihoods, rtol=1e-9)
    np.testing.assert_allclose(cpp.probability, numpy.probability, rtol=1e-5)
    np.testing.assert_allclose(cpp.null_probability, numpy.null_probability, rtol=1e-5)
    assert cpp.tension == pytest.approx(numpy.tension, rel=1e-8)
    np.testing.assert_array_equal(links, aligner.link(numpy, source, target))


@pytest.mark.parametrize("size", [400, 70_000])
def test_numpy_and_cpp_link_another_corpus_alike(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With types that were never seen, and with more types than 16 bits can tell apart."""
    source, target = generated(0, sentences=500, types=200, longest=12)
    other = generated(1, sentences=500, types=400, longest=30)
    shift = np.int32(size - 400)
    source, target = (Ragged(side.values + shift, side.offsets) for side in (source, target))
    other_source, other_target = (Ragged(side.values + shift, side.offsets) for side in other)
    trained = aligner.train(source, target, AlignerConfig(), source_size=size, target_size=size)
    links = aligner.link(trained, other_source, other_target)
    monkeypatch.setattr(native_backend, "library", lambda: None)
    np.testing.assert_array_equal(links, aligner.link(trained, other_source, other_target))


def test_digamma_is_that_of_scipy() -> None:
    library = native_backend.library()
    if library is None:
        pytest.skip("no C++ compiler, or NAT_AR_NATIVE=0")
    x = np.concatenate([np.geomspace(2e-3, 1e9, 20_000), np.linspace(0.01, 20, 20_000)])
    found = np.empty_like(x)
    library.NatArExpDigamma(
        native_backend.argument(x), native_backend.argument(len(x)), native_backend.argument(found)
    )
    np.testing.assert_allclose(found, np.exp(special.digamma(x)), rtol=1e-12)

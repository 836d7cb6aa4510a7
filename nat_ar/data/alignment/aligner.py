"""Estimates word alignment models by EM, and links corpora with them. The formulas are in model.py."""

import dataclasses
import time
from collections.abc import Callable

import numpy as np
from jaxtyping import Int

from nat_ar.data.alignment import links, model, native_backend, numpy_backend
from nat_ar.data.alignment.model import Aligner, AlignerConfig, Backend, ExpectedCounts, Positions
from nat_ar.data.ragged import Ragged

FLAT_TENSION = 0.1  # the far end of a sentence weighs 10 % less than the diagonal
TENSION_STEPS = 8  # gradient steps after each pass over the corpus
# In nats per target token. The objective is concave in the tension with curvature of at most
# max Var(h) = 1/12, so any rate below 24 climbs without overshooting.
TENSION_RATE = 20.0


def align(
    source: Ragged,
    target: Ragged,
    config: AlignerConfig,
    *,
    source_size: int,
    target_size: int,
    progress: Callable[[str], None] | None = None,
) -> Int[np.ndarray, "target_tokens"]:
    """`train` on a corpus, then `link` the same corpus."""
    aligner = train(
        source, target, config, source_size=source_size, target_size=target_size, progress=progress
    )
    return link(aligner, source, target)


def train(
    source: Ragged,
    target: Ragged,
    config: AlignerConfig,
    *,
    source_size: int,
    target_size: int,
    progress: Callable[[str], None] | None = None,
) -> Aligner:
    """Runs EM over all sentence pairs, deterministically. `progress` is called with a line after each pass.

    Raises ValueError if source and target differ in length, if ids exceed the vocabulary sizes, and if a non-empty
    target has an empty source."""
    links.check_parallel(source, target)
    _check_ids(source, target, source_size, target_size)
    backend = backend_for(source, target, source_size, target_size, config)
    keys = backend.cooccurring_types()
    aligner = Aligner(
        config,
        source_size,
        target_size,
        keys,
        np.full(len(keys), 1 / target_size, np.float32),
        np.full(target_size, 1 / target_size),
        FLAT_TENSION if config.flat_iterations else config.tension,
    )
    iterations = config.flat_iterations + config.iterations
    for number in range(1, iterations + 1):
        began = time.perf_counter()
        expected = backend.expected_counts(aligner)
        aligner = _maximise(aligner, expected, backend)
        if number == config.flat_iterations:
            aligner = dataclasses.replace(aligner, tension=config.tension)
        elif number > config.flat_iterations and config.optimise_tension:
            tension = _climb(aligner.tension, expected, backend.positions)
            aligner = dataclasses.replace(aligner, tension=tension)
        if progress is not None:
            tokens = max(len(target.values), 1)
            rate = tokens / (time.perf_counter() - began)
            progress(
                f"alignment {number}/{iterations}: perplexity "
                f"{np.exp(-expected.log_likelihood / tokens):.2f}, tension {aligner.tension:.2f}, "
                f"{rate:,.0f} target tokens/s, {len(keys):,} entries, "
                f"{tokens / rate * (iterations - number):,.0f} s left"
            )
    return aligner


def link(aligner: Aligner, source: Ragged, target: Ragged) -> Int[np.ndarray, "target_tokens"]:
    """The most probable source position for every target token (flat, like `target.values`), counted from 0 within
    the sentence; never the null word. Ties go to the left.

    The corpus need not be the one that the aligner was estimated on: types that did not co-occur there have
    SMALLEST_PROBABILITY, so that the diagonal decides among them."""
    links.check_parallel(source, target)
    _check_ids(source, target, aligner.source_size, aligner.target_size)
    if len(target.values) and not len(aligner.keys):
        raise ValueError(
            "expected an aligner estimated on sentence pairs; this one was trained on none"
        )
    sizes = aligner.source_size, aligner.target_size
    return backend_for(source, target, *sizes, aligner.config).links(aligner)


def backend_for(
    source: Ragged, target: Ragged, source_size: int, target_size: int, config: AlignerConfig
) -> Backend:
    """C++ if it can be built and 32 bits can index the tokens, else NumPy."""
    library = native_backend.library()
    if library is None or max(len(source.values), len(target.values)) >= 1 << 32:
        return numpy_backend.NumpyBackend(source, target, target_size, config.chunk_token_pairs)
    return native_backend.NativeBackend(library, source, target, source_size, target_size)


def _maximise(aligner: Aligner, expected: ExpectedCounts, backend: Backend) -> Aligner:
    """The M-step: t(f|e), and t(f|null word)."""
    config = aligner.config
    probability = backend.normalise(expected.counts, model.edges(aligner), config)
    occurs = expected.null_counts > 0
    null_probability = np.full(aligner.target_size, model.SMALLEST_PROBABILITY, np.float64)
    null_probability[occurs] = numpy_backend.normalise(
        expected.null_counts[occurs],
        np.full(occurs.sum(), expected.null_counts.sum()),
        np.full(occurs.sum(), occurs.sum()),
        config,
    )
    return dataclasses.replace(
        aligner,
        probability=probability,
        null_probability=null_probability,
        log_likelihoods=(*aligner.log_likelihoods, expected.log_likelihood),
    )


def _climb(tension: float, expected: ExpectedCounts, positions: Positions) -> float:
    """Gradient steps on the expected log prior: sum of mass * (E_posterior[h] - E_prior[h])."""
    tokens = expected.mass.sum()
    if not tokens:
        return tension
    for _ in range(TENSION_STEPS):
        _, mean_feature = model.diagonal_prior(tension, positions)
        gradient = (expected.feature - float(expected.mass @ mean_feature)) / tokens
        tension = float(np.clip(tension + TENSION_RATE * gradient, *model.TENSION_RANGE))
    return tension


def _check_ids(source: Ragged, target: Ragged, source_size: int, target_size: int) -> None:
    for name, side, size in (("source", source, source_size), ("target", target, target_size)):
        if len(side.values) and not (side.values.min() >= 0 and side.values.max() < size):
            raise ValueError(
                f"expected {name} ids from 0 to {size - 1}, got {side.values.min()} to "
                f"{side.values.max()}; is {name}_size the size of the vocabulary that made them?"
            )

"""Estimates word alignment models by EM, and links corpora with them; model.py has the formulas."""

import dataclasses
import time
from collections.abc import Callable

import numpy as np
from jaxtyping import Int

from nat_ar.data.alignment import links, model, native_passes, numpy_passes
from nat_ar.data.alignment.model import Aligner, AlignerConfig, Expectation, Passes, Places
from nat_ar.data.ragged import Ragged

FLAT_TENSION = 0.1  # weighs the far end of a sentence 10 % less than the diagonal
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
    """Estimates an aligner on the corpus and links the same corpus: see `train` and `link`."""
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
    """EM over all sentence pairs. Deterministic. `progress` gets a line for each pass.

    Raises ValueError where the corpora do not fit each other or the vocabulary sizes, and where a
    target has tokens and its source has none."""
    links.check_parallel(source, target)
    _check_ids(source, target, source_size, target_size)
    passes = passes_over(source, target, source_size, target_size, config)
    keys = passes.meeting_types()
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
        found = passes.expectation(aligner)
        aligner = _maximise(aligner, found, passes)
        if number == config.flat_iterations:
            aligner = dataclasses.replace(aligner, tension=config.tension)
        elif number > config.flat_iterations and config.optimise_tension:
            tension = _climb(aligner.tension, found, passes.places)
            aligner = dataclasses.replace(aligner, tension=tension)
        if progress is not None:
            tokens = max(len(target.values), 1)
            rate = tokens / (time.perf_counter() - began)
            progress(
                f"alignment {number}/{iterations}: perplexity "
                f"{np.exp(-found.log_likelihood / tokens):.2f}, tension {aligner.tension:.2f}, "
                f"{rate:,.0f} target tokens/s, {len(keys):,} entries, "
                f"{tokens / rate * (iterations - number):,.0f} s left"
            )
    return aligner


def link(aligner: Aligner, source: Ragged, target: Ragged) -> Int[np.ndarray, "target_tokens"]:
    """For every target token (flat, like `target.values`) the position within its sentence of the
    source token that most probably accounts for it, the null word left out; ties go to the left.

    The corpus need not be the one that the aligner was estimated on: types that never met there get
    the smallest probability, so that the diagonal decides among them."""
    links.check_parallel(source, target)
    _check_ids(source, target, aligner.source_size, aligner.target_size)
    if len(target.values) and not len(aligner.keys):
        raise ValueError("expected an aligner that has seen sentence pairs; it was trained on none")
    sizes = aligner.source_size, aligner.target_size
    return passes_over(source, target, *sizes, aligner.config).links(aligner)


def passes_over(
    source: Ragged, target: Ragged, source_size: int, target_size: int, config: AlignerConfig
) -> Passes:
    """In C++ where it can be; there a token's place has 32 bits."""
    library = native_passes.library()
    if library is None or max(len(source.values), len(target.values)) >= 1 << 32:
        return numpy_passes.NumpyPasses(source, target, target_size, config.chunk_token_pairs)
    return native_passes.NativePasses(library, source, target, source_size, target_size)


def _maximise(aligner: Aligner, found: Expectation, passes: Passes) -> Aligner:
    """The M-step of both tables."""
    config = aligner.config
    probability = passes.normalise(found.counts, model.edges(aligner), config)
    occurs = found.null_counts > 0
    null_probability = np.full(aligner.target_size, model.SMALLEST_PROBABILITY, np.float64)
    null_probability[occurs] = numpy_passes.normalise(
        found.null_counts[occurs],
        np.full(occurs.sum(), found.null_counts.sum()),
        np.full(occurs.sum(), occurs.sum()),
        config,
    )
    return dataclasses.replace(
        aligner,
        probability=probability,
        null_probability=null_probability,
        log_likelihoods=(*aligner.log_likelihoods, found.log_likelihood),
    )


def _climb(tension: float, found: Expectation, places: Places) -> float:
    """Gradient steps on the expected log prior: sum of mass * (E_posterior[h] - E_prior[h])."""
    tokens = found.mass.sum()
    if not tokens:
        return tension
    for _ in range(TENSION_STEPS):
        _, mean_feature = model.diagonal_prior(tension, places)
        gradient = (found.feature - float(found.mass @ mean_feature)) / tokens
        tension = float(np.clip(tension + TENSION_RATE * gradient, *model.TENSION_RANGE))
    return tension


def _check_ids(source: Ragged, target: Ragged, source_size: int, target_size: int) -> None:
    for name, side, size in (("source", source, source_size), ("target", target, target_size)):
        if len(side.values) and not (side.values.min() >= 0 and side.values.max() < size):
            raise ValueError(
                f"expected {name} ids from 0 to {size - 1}, got {side.values.min()} to "
                f"{side.values.max()}; is {name}_size the size of the vocabulary that made them?"
            )

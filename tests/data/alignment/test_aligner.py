"""The aligner against sums in plain Python, against lexicons that are known, and on ragged input; in NumPy and in
C++."""

import collections
import dataclasses
import math

import numpy as np
import pytest

from nat_ar.data.alignment import aligner, links, native_backend
from nat_ar.data.alignment.model import AlignerConfig
from nat_ar.data.ragged import Ragged


@pytest.fixture(params=["NumPy", "C++"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "NumPy":
        monkeypatch.setattr(native_backend, "library", lambda: None)
    elif native_backend.library() is None:
        pytest.skip("no C++ compiler, or NAT_AR_NATIVE=0")


both_ways = pytest.mark.usefixtures("_way")


def ragged(*rows: list[int]) -> Ragged:
    return Ragged.from_rows(rows)


def rows_of(values: Ragged) -> list[list[int]]:
    return [values[row].tolist() for row in range(len(values))]


def random_corpus(seed: int, sentences: int, types: int, longest: int) -> tuple[Ragged, Ragged]:
    generator = np.random.default_rng(seed)

    def side() -> Ragged:
        lengths = generator.integers(1, longest + 1, sentences)
        return Ragged.from_rows(
            [generator.integers(0, types, length).tolist() for length in lengths]
        )

    return side(), side()


def known_corpus(seed: int, sentences: int) -> tuple[Ragged, Ragged, np.ndarray]:
    """Source type e becomes target type e + 30; type 1 becomes 31 and 41, side by side; type 2 moves
    to the end, as a verb does. With the true links."""
    generator = np.random.default_rng(seed)
    sources: list[list[int]] = []
    targets: list[list[int]] = []
    links: list[int] = []
    for _ in range(sentences):
        source = generator.permutation(10)[: generator.integers(2, 8)].tolist()
        moves = [e == 2 for e in source]
        order = sorted(range(len(source)), key=moves.__getitem__)
        target = [(e, j) for j in order for e in ([31, 41] if source[j] == 1 else [source[j] + 30])]
        sources.append(source)
        targets.append([token for token, _ in target])
        links.extend(j for _, j in target)
    return Ragged.from_rows(sources), Ragged.from_rows(targets), np.array(links, np.int32)


def prior(i: int, j: int, m: int, n: int, tension: float, p0: float) -> float:
    """The diagonal prior of Dyer et al. (2013), equation 2, summed term by term; i and j from 1."""
    weight = [math.exp(-tension * abs(i / m - other / n)) for other in range(1, n + 1)]
    return (1 - p0) * weight[j - 1] / sum(weight)


@both_ways
def test_expected_counts_equal_a_loop_over_two_sentences() -> None:
    source, target = ragged([0, 1, 0], [2, 1]), ragged([0, 1], [1, 2, 1, 0])
    config = AlignerConfig(null_probability=0.2)
    trained = aligner.train(source, target, config, source_size=3, target_size=3)
    t = np.random.default_rng(0).uniform(0.1, 1.0, (4, 3)).astype(np.float32)  # row 3: null word
    trained = dataclasses.replace(
        trained,
        tension=3.0,
        probability=t[trained.keys // 3, trained.keys % 3],
        null_probability=t[3].astype(np.float64),
    )
    found = aligner.backend_for(source, target, 3, 3, config).expected_counts(trained)

    counts: collections.Counter[tuple[int, int]] = collections.Counter()
    feature = log_likelihood = not_null = 0.0
    for row in range(2):
        e, f = source[row].tolist(), target[row].tolist()
        m, n = len(f), len(e)
        for i in range(1, m + 1):
            score = {
                j: t[e[j - 1], f[i - 1]] * prior(i, j, m, n, 3.0, 0.2) for j in range(1, n + 1)
            }
            null = 0.2 * t[3, f[i - 1]]
            total = sum(score.values()) + null
            counts[3, f[i - 1]] += null / total
            not_null += 1 - null / total
            for j in range(1, n + 1):
                counts[e[j - 1], f[i - 1]] += score[j] / total
                feature -= score[j] / total * abs(i / m - j / n)
            log_likelihood += math.log(total)

    assert sum(counts.values()) == pytest.approx(6)  # each target token is accounted for once
    assert len(found.counts) == 8  # source type 0 meets targets 0, 1; types 1 and 2 meet all three
    for key, count in zip(trained.keys.tolist(), found.counts, strict=True):
        assert count == pytest.approx(counts[key // 3, key % 3], rel=1e-6)
    assert found.null_counts.tolist() == pytest.approx([counts[3, f] for f in range(3)], rel=1e-6)
    assert found.feature == pytest.approx(feature, rel=1e-6)
    assert found.mass.sum() == pytest.approx(not_null, rel=1e-6)
    assert found.log_likelihood == pytest.approx(log_likelihood, rel=1e-6)


@both_ways
def test_maximum_likelihood_step_divides_counts_by_their_row() -> None:
    # One source token: nothing to share but with the null word, so t(f|e) is the relative frequency.
    source, target = ragged([0], [0], [0], [0]), ragged([0], [0], [0], [1])
    config = AlignerConfig(variational_bayes=False)
    trained = aligner.train(source, target, config, source_size=1, target_size=3)
    assert trained.keys.tolist() == [0, 1]
    assert trained.probability.tolist() == pytest.approx([0.75, 0.25])
    assert trained.null_probability.tolist() == pytest.approx([0.75, 0.25, 0], abs=1e-30)


@both_ways
@pytest.mark.parametrize("optimise_tension", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_likelihood_never_falls(seed: int, optimise_tension: bool) -> None:
    source, target = random_corpus(seed, sentences=20, types=6, longest=9)
    config = AlignerConfig(
        iterations=15,
        flat_iterations=0,
        variational_bayes=False,
        optimise_tension=optimise_tension,
    )
    trained = aligner.train(source, target, config, source_size=6, target_size=6)
    assert len(trained.log_likelihoods) == 15
    assert (np.diff(trained.log_likelihoods) > -1e-4).all()  # the table is float32
    assert trained.log_likelihoods[-1] > trained.log_likelihoods[0] + 1


@both_ways
@pytest.mark.parametrize("variational_bayes", [False, True])
def test_known_lexicon_is_recovered(variational_bayes: bool) -> None:
    source, target, linked = known_corpus(0, sentences=300)
    config = AlignerConfig(variational_bayes=variational_bayes)
    found = aligner.align(source, target, config, source_size=10, target_size=50)
    assert (found == linked).all()


@both_ways
def test_tension_rises_on_monotone_text_and_falls_on_shuffled_text() -> None:
    generator = np.random.default_rng(0)
    rows = [generator.permutation(40)[:8].tolist() for _ in range(200)]
    source = Ragged.from_rows(rows)
    config = AlignerConfig(optimise_tension=True)

    def tension(target: Ragged) -> float:
        return aligner.train(source, target, config, source_size=40, target_size=40).tension

    assert tension(source) > 8
    assert tension(Ragged.from_rows([generator.permutation(row).tolist() for row in rows])) < 1


@both_ways
def test_variational_bayes_keeps_a_rare_source_token_from_collecting_garbage() -> None:
    # Types 0 to 4 have ten translations each. Type 9 occurs once, so that without a prior each token
    # of that sentence may seem likelier from 9, at up to 1/4, than from its own source, at 1/10.
    def fertility_of_the_rare_token(seed: int, variational_bayes: bool) -> int:
        generator = np.random.default_rng(seed)

        def translate(row: list[int]) -> list[int]:
            return [10 * e + int(generator.integers(0, 10)) for e in row]

        rows = [generator.permutation(5)[:3].tolist() for _ in range(500)]
        source = Ragged.from_rows([*rows, [0, 9, 1, 2]])
        target = Ragged.from_rows(
            [*map(translate, rows), [*translate([0]), 99, *translate([1, 2])]]
        )
        config = AlignerConfig(variational_bayes=variational_bayes)
        linked = aligner.align(source, target, config, source_size=10, target_size=100)
        return int(links.fertilities(linked, source, target)[500][1])

    assert [fertility_of_the_rare_token(seed, True) for seed in range(5)] == [1, 1, 1, 1, 1]
    assert max(fertility_of_the_rare_token(seed, False) for seed in range(5)) > 1


def test_chunks_change_nothing() -> None:
    source, target = random_corpus(1, sentences=50, types=20, longest=12)
    whole = AlignerConfig()
    tiny = AlignerConfig(chunk_token_pairs=10)
    a, b = (
        aligner.train(source, target, config, source_size=20, target_size=20)
        for config in (whole, tiny)
    )
    assert (a.keys == b.keys).all()
    np.testing.assert_allclose(a.probability, b.probability, rtol=1e-3, atol=1e-6)
    assert a.tension == pytest.approx(b.tension, rel=1e-5)
    # Links by the same model are the same; two models that differ by rounding may break a tie apart.
    assert (
        aligner.link(a, source, target)
        == aligner.link(dataclasses.replace(a, config=tiny), source, target)
    ).all()


@both_ways
@pytest.mark.parametrize("source_length", [1, 2, 7, 30])
def test_of_equals_the_left_one_is_linked(source_length: int) -> None:
    # One type on each side: the position decides, and of two that are as far from the diagonal the left one.
    source, target = ragged([0] * source_length), ragged([0] * 21)
    linked = aligner.align(source, target, AlignerConfig(), source_size=1, target_size=1)
    n, m = source_length, 21
    assert linked.tolist() == [
        min(range(1, n + 1), key=lambda j: (abs(i * n - j * m), j)) - 1 for i in range(1, m + 1)
    ]


@both_ways
def test_same_corpus_same_links() -> None:
    source, target = random_corpus(2, sentences=50, types=20, longest=12)
    first, second = (
        aligner.align(source, target, AlignerConfig(), source_size=20, target_size=20)
        for _ in range(2)
    )
    assert first.tobytes() == second.tobytes()


@both_ways
def test_unseen_types_follow_the_diagonal_and_seen_ones_their_translation() -> None:
    source, target, _ = known_corpus(0, sentences=200)
    trained = aligner.train(source, target, AlignerConfig(), source_size=20, target_size=60)
    linked = aligner.link(trained, ragged([15, 16, 17], [3, 15, 4]), ragged([51, 52, 53], [34, 33]))
    assert linked.tolist() == [0, 1, 2, 2, 0]


@both_ways
def test_progress_gets_a_line_for_each_iteration() -> None:
    lines: list[str] = []
    source, target, _ = known_corpus(0, sentences=20)
    aligner.align(
        source,
        target,
        AlignerConfig(iterations=2, flat_iterations=1),
        source_size=10,
        target_size=50,
        progress=lines.append,
    )
    assert [line.split(":")[0] for line in lines] == [f"alignment {k}/3" for k in (1, 2, 3)]


@both_ways
def test_rows_without_a_target_are_kept_empty() -> None:
    source, target = ragged([1, 2], [], [3], []), ragged([1], [], [], [])
    linked = aligner.align(source, target, AlignerConfig(), source_size=4, target_size=4)
    assert linked.tolist() == [1]  # the one target token ends its sentence, and so does token 2
    counts = links.fertilities(linked, source, target)
    assert rows_of(counts) == [[0, 1], [], [0], []]


@both_ways
def test_no_sentence_has_no_link() -> None:
    nothing = ragged()
    linked = aligner.align(nothing, nothing, AlignerConfig(), source_size=4, target_size=4)
    assert len(linked) == 0
    assert len(links.fertilities(linked, nothing, nothing)) == 0


@both_ways
def test_ragged_sentences_with_one_long_row() -> None:
    source = ragged([1], list(range(40)), [2, 1])
    target = ragged([5, 6, 7, 8, 9], [1], list(range(30)))
    linked = aligner.align(source, target, AlignerConfig(), source_size=40, target_size=30)
    counts = links.fertilities(linked, source, target)
    assert counts.lengths.tolist() == [1, 40, 2]
    assert list(map(sum, rows_of(counts))) == [5, 1, 30]


def test_what_does_not_fit_is_an_error() -> None:
    config = AlignerConfig()

    def run(source: Ragged, target: Ragged) -> None:
        aligner.align(source, target, config, source_size=4, target_size=4)

    with pytest.raises(ValueError, match="empty source with a target of 2 tokens in row 1"):
        run(ragged([1], []), ragged([1], [1, 2]))
    with pytest.raises(ValueError, match="2 sources and 1 targets"):
        run(ragged([1], [1]), ragged([1]))
    with pytest.raises(ValueError, match="target ids from 0 to 3, got 1 to 4"):
        run(ragged([1]), ragged([1, 4]))
    with pytest.raises(ValueError, match="one link per target token, 2, got 1"):
        links.fertilities(np.array([0]), ragged([1]), ragged([1, 2]))
    with pytest.raises(ValueError, match="row 1: expected links from 0 to 0, got 1"):
        links.fertilities(np.array([1, 1]), ragged([1, 2], [1]), ragged([1], [1]))
    untrained = aligner.train(ragged(), ragged(), config, source_size=4, target_size=4)
    with pytest.raises(ValueError, match="trained on none"):
        aligner.link(untrained, ragged([1]), ragged([1]))

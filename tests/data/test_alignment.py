"""The aligner against sums in plain Python, against lexicons that are known, and on ragged input; in NumPy and in
C++, and one against the other."""

import collections
import dataclasses
import math

import numpy as np
import pytest
from scipy import special

from nat_ar.data import alignment
from nat_ar.data.ragged import Ragged


@pytest.fixture(params=["NumPy", "C++"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "NumPy":
        monkeypatch.setattr(alignment, "_library", lambda: None)
    elif alignment._library() is None:
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


def test_normaliser_and_mean_feature_equal_their_sums() -> None:
    lengths = [(1, 1), (1, 7), (7, 1), (3, 5), (5, 3), (4, 4), (2, 100), (100, 2), (60, 61)]
    source = Ragged.from_rows([[0] * n for _, n in lengths])
    target = Ragged.from_rows([[0] * m for m, _ in lengths])
    places = alignment.list_places(source, target)
    assert len(places.position) == sum(m for m, _ in lengths)
    for tension in (0.1, 1.0, 4.0, 14.0):
        normaliser, mean_feature = alignment.diagonal_prior(tension, places)
        for place, (i, m, n) in enumerate(
            zip(places.position, places.target_length, places.source_length, strict=True)
        ):
            h = [-abs(i / m - j / n) for j in range(1, n + 1)]
            weight = [math.exp(tension * value) for value in h]
            assert normaliser[place] == pytest.approx(sum(weight), rel=1e-9)
            mean = sum(w * value for w, value in zip(weight, h, strict=True)) / sum(weight)
            assert mean_feature[place] == pytest.approx(mean, rel=1e-6, abs=1e-9)


@both_ways
def test_expected_counts_equal_a_loop_over_two_sentences() -> None:
    source, target = ragged([0, 1, 0], [2, 1]), ragged([0, 1], [1, 2, 1, 0])
    config = alignment.AlignerConfig(null_probability=0.2)
    aligner = alignment.train(source, target, config, source_size=3, target_size=3)
    t = np.random.default_rng(0).uniform(0.1, 1.0, (4, 3)).astype(np.float32)  # row 3: null word
    aligner = dataclasses.replace(
        aligner,
        tension=3.0,
        probability=t[aligner.keys // 3, aligner.keys % 3],
        null_probability=t[3].astype(np.float64),
    )
    found = alignment.passes_over(source, target, 3, 3, config).expectation(aligner)

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
    for key, count in zip(aligner.keys.tolist(), found.counts, strict=True):
        assert count == pytest.approx(counts[key // 3, key % 3], rel=1e-6)
    assert found.null_counts.tolist() == pytest.approx([counts[3, f] for f in range(3)], rel=1e-6)
    assert found.feature == pytest.approx(feature, rel=1e-6)
    assert found.mass.sum() == pytest.approx(not_null, rel=1e-6)
    assert found.log_likelihood == pytest.approx(log_likelihood, rel=1e-6)


@both_ways
def test_maximum_likelihood_step_divides_counts_by_their_row() -> None:
    # One source token: nothing to share but with the null word, so t(f|e) is the relative frequency.
    source, target = ragged([0], [0], [0], [0]), ragged([0], [0], [0], [1])
    config = alignment.AlignerConfig(variational_bayes=False)
    aligner = alignment.train(source, target, config, source_size=1, target_size=3)
    assert aligner.keys.tolist() == [0, 1]
    assert aligner.probability.tolist() == pytest.approx([0.75, 0.25])
    assert aligner.null_probability.tolist() == pytest.approx([0.75, 0.25, 0], abs=1e-30)


@both_ways
@pytest.mark.parametrize("optimise_tension", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_likelihood_never_falls(seed: int, optimise_tension: bool) -> None:
    source, target = random_corpus(seed, sentences=20, types=6, longest=9)
    config = alignment.AlignerConfig(
        iterations=15,
        flat_iterations=0,
        variational_bayes=False,
        optimise_tension=optimise_tension,
    )
    aligner = alignment.train(source, target, config, source_size=6, target_size=6)
    assert len(aligner.log_likelihoods) == 15
    assert (np.diff(aligner.log_likelihoods) > -1e-4).all()  # the table is float32
    assert aligner.log_likelihoods[-1] > aligner.log_likelihoods[0] + 1


@both_ways
@pytest.mark.parametrize("variational_bayes", [False, True])
def test_known_lexicon_is_recovered(variational_bayes: bool) -> None:
    source, target, links = known_corpus(0, sentences=300)
    config = alignment.AlignerConfig(variational_bayes=variational_bayes)
    found = alignment.align(source, target, config, source_size=10, target_size=50)
    assert (found == links).all()


@both_ways
def test_tension_rises_on_monotone_text_and_falls_on_shuffled_text() -> None:
    generator = np.random.default_rng(0)
    rows = [generator.permutation(40)[:8].tolist() for _ in range(200)]
    source = Ragged.from_rows(rows)
    config = alignment.AlignerConfig(optimise_tension=True)

    def tension(target: Ragged) -> float:
        return alignment.train(source, target, config, source_size=40, target_size=40).tension

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
        config = alignment.AlignerConfig(variational_bayes=variational_bayes)
        links = alignment.align(source, target, config, source_size=10, target_size=100)
        return int(alignment.fertilities(links, source, target)[500][1])

    assert [fertility_of_the_rare_token(seed, True) for seed in range(5)] == [1, 1, 1, 1, 1]
    assert max(fertility_of_the_rare_token(seed, False) for seed in range(5)) > 1


def test_chunks_change_nothing() -> None:
    source, target = random_corpus(1, sentences=50, types=20, longest=12)
    whole = alignment.AlignerConfig()
    tiny = alignment.AlignerConfig(chunk_token_pairs=10)
    a, b = (
        alignment.train(source, target, config, source_size=20, target_size=20)
        for config in (whole, tiny)
    )
    assert (a.keys == b.keys).all()
    np.testing.assert_allclose(a.probability, b.probability, rtol=1e-3, atol=1e-6)
    assert a.tension == pytest.approx(b.tension, rel=1e-5)
    # Links by the same model are the same; two models that differ by rounding may break a tie apart.
    assert (
        alignment.link(a, source, target)
        == alignment.link(dataclasses.replace(a, config=tiny), source, target)
    ).all()


def generated(seed: int, sentences: int, types: int, longest: int) -> tuple[Ragged, Ragged]:
    """Zipf's source types, each with two translations; targets in about the same order, with words that come from
    nowhere. Some sentences have one token, some no target, some neither side."""
    generator = np.random.default_rng(seed)
    weight = 1 / np.arange(3, types + 3)
    sources: list[list[int]] = []
    targets: list[list[int]] = []
    for _ in range(sentences):
        n = int(generator.integers(1, longest + 1))
        m = int(max(1, n + generator.integers(-3, 4)))
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
    if alignment._library() is None:
        pytest.skip("no C++ compiler, or NAT_AR_NATIVE=0")
    source, target = generated(0, sentences=3_000, types=400, longest=12)
    config = alignment.AlignerConfig(
        flat_iterations=flat_iterations,
        optimise_tension=optimise_tension,
        variational_bayes=variational_bayes,
        chunk_token_pairs=chunk_token_pairs,
    )
    cpp = alignment.train(source, target, config, source_size=400, target_size=400)
    links = alignment.link(cpp, source, target)
    monkeypatch.setattr(alignment, "_library", lambda: None)
    numpy = alignment.train(source, target, config, source_size=400, target_size=400)

    np.testing.assert_array_equal(cpp.keys, numpy.keys)
    np.testing.assert_allclose(cpp.log_likelihoods, numpy.log_likelihoods, rtol=1e-9)
    np.testing.assert_allclose(cpp.probability, numpy.probability, rtol=1e-5)
    np.testing.assert_allclose(cpp.null_probability, numpy.null_probability, rtol=1e-5)
    assert cpp.tension == pytest.approx(numpy.tension, rel=1e-8)
    np.testing.assert_array_equal(links, alignment.link(numpy, source, target))


@pytest.mark.parametrize("size", [400, 70_000])
def test_numpy_and_cpp_link_another_corpus_alike(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With types that were never seen, and with more types than 16 bits can tell apart."""
    source, target = generated(0, sentences=500, types=200, longest=12)
    other = generated(1, sentences=500, types=400, longest=30)
    shift = size - 400
    source, target, *other = (
        Ragged(side.values + np.int32(shift), side.offsets) for side in (source, target, *other)
    )
    aligner = alignment.train(
        source, target, alignment.AlignerConfig(), source_size=size, target_size=size
    )
    links = alignment.link(aligner, *other)
    monkeypatch.setattr(alignment, "_library", lambda: None)
    np.testing.assert_array_equal(links, alignment.link(aligner, *other))


@both_ways
@pytest.mark.parametrize("source_length", [1, 2, 7, 30])
def test_of_equals_the_left_one_is_linked(source_length: int) -> None:
    # One type on each side: the position decides, and of two that are as far from the diagonal the left one.
    source, target = ragged([0] * source_length), ragged([0] * 21)
    links = alignment.align(source, target, alignment.AlignerConfig(), source_size=1, target_size=1)
    n, m = source_length, 21
    assert links.tolist() == [
        min(range(1, n + 1), key=lambda j: (abs(i * n - j * m), j)) - 1 for i in range(1, m + 1)
    ]


def test_digamma_is_that_of_scipy() -> None:
    library = alignment._library()
    if library is None:
        pytest.skip("no C++ compiler, or NAT_AR_NATIVE=0")
    x = np.concatenate([np.geomspace(2e-3, 1e9, 20_000), np.linspace(0.01, 20, 20_000)])
    found = np.empty_like(x)
    library.NatArExpDigamma(
        alignment._argument(x), alignment._argument(len(x)), alignment._argument(found)
    )
    np.testing.assert_allclose(found, np.exp(special.digamma(x)), rtol=1e-12)


@both_ways
def test_same_corpus_same_links() -> None:
    source, target = random_corpus(2, sentences=50, types=20, longest=12)
    first, second = (
        alignment.align(source, target, alignment.AlignerConfig(), source_size=20, target_size=20)
        for _ in range(2)
    )
    assert first.tobytes() == second.tobytes()


@both_ways
def test_unseen_types_follow_the_diagonal_and_seen_ones_their_translation() -> None:
    source, target, _ = known_corpus(0, sentences=200)
    aligner = alignment.train(
        source, target, alignment.AlignerConfig(), source_size=20, target_size=60
    )
    links = alignment.link(
        aligner, ragged([15, 16, 17], [3, 15, 4]), ragged([51, 52, 53], [34, 33])
    )
    assert links.tolist() == [0, 1, 2, 2, 0]


@both_ways
def test_progress_gets_a_line_for_each_iteration() -> None:
    lines: list[str] = []
    source, target, _ = known_corpus(0, sentences=20)
    alignment.align(
        source,
        target,
        alignment.AlignerConfig(iterations=2, flat_iterations=1),
        source_size=10,
        target_size=50,
        progress=lines.append,
    )
    assert [line.split(":")[0] for line in lines] == [f"alignment {k}/3" for k in (1, 2, 3)]


@both_ways
def test_rows_without_a_target_are_kept_empty() -> None:
    source, target = ragged([1, 2], [], [3], []), ragged([1], [], [], [])
    links = alignment.align(source, target, alignment.AlignerConfig(), source_size=4, target_size=4)
    assert links.tolist() == [1]  # the one target token ends its sentence, and so does token 2
    counts = alignment.fertilities(links, source, target)
    assert rows_of(counts) == [[0, 1], [], [0], []]


@both_ways
def test_no_sentence_has_no_link() -> None:
    nothing = ragged()
    links = alignment.align(
        nothing, nothing, alignment.AlignerConfig(), source_size=4, target_size=4
    )
    assert len(links) == 0
    assert len(alignment.fertilities(links, nothing, nothing)) == 0


@both_ways
def test_ragged_sentences_with_one_long_row() -> None:
    source = ragged([1], list(range(40)), [2, 1])
    target = ragged([5, 6, 7, 8, 9], [1], list(range(30)))
    links = alignment.align(
        source, target, alignment.AlignerConfig(), source_size=40, target_size=30
    )
    counts = alignment.fertilities(links, source, target)
    assert counts.lengths.tolist() == [1, 40, 2]
    assert list(map(sum, rows_of(counts))) == [5, 1, 30]


def test_fertilities_are_as_long_as_the_source() -> None:
    # methods.md 1a: a list that ends with the last aligned source token is too short.
    source, target = ragged([7, 8, 9, 9, 9], [7, 8]), ragged([1, 2, 3], [4])
    counts = alignment.fertilities(np.array([1, 1, 0, 0]), source, target)
    assert rows_of(counts) == [[1, 2, 0, 0, 0], [1, 0]]
    assert list(map(sum, rows_of(counts))) == target.lengths.tolist()


def test_what_does_not_fit_is_an_error() -> None:
    config = alignment.AlignerConfig()

    def run(source: Ragged, target: Ragged) -> None:
        alignment.align(source, target, config, source_size=4, target_size=4)

    with pytest.raises(ValueError, match="empty source with a target of 2 tokens in row 1"):
        run(ragged([1], []), ragged([1], [1, 2]))
    with pytest.raises(ValueError, match="2 sources and 1 targets"):
        run(ragged([1], [1]), ragged([1]))
    with pytest.raises(ValueError, match="target ids from 0 to 3, got 1 to 4"):
        run(ragged([1]), ragged([1, 4]))
    with pytest.raises(ValueError, match="one link per target token, 2, got 1"):
        alignment.fertilities(np.array([0]), ragged([1]), ragged([1, 2]))
    with pytest.raises(ValueError, match="row 1: expected links from 0 to 0, got 1"):
        alignment.fertilities(np.array([1, 1]), ragged([1, 2], [1]), ragged([1], [1]))
    untrained = alignment.train(ragged(), ragged(), config, source_size=4, target_size=4)
    with pytest.raises(ValueError, match="trained on none"):
        alignment.link(untrained, ragged([1]), ragged([1]))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("iterations", 0),
        ("null_probability", 1.0),
        ("tension", 0.0),
        ("flat_iterations", -1),
        ("concentration", 0.0),
        ("chunk_token_pairs", 0),
    ],
)
def test_impossible_settings_are_named(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        alignment.AlignerConfig(**{field: value})  # type: ignore[arg-type]


def test_tension_is_optimised_within_its_range_only() -> None:
    alignment.AlignerConfig(tension=20.0)
    with pytest.raises(ValueError, match=r"from 0\.1 to 14\.0 where it is optimised, got 20.0"):
        alignment.AlignerConfig(tension=20.0, optimise_tension=True)


def test_pharaoh_lines_are_source_then_target() -> None:
    source, target = ragged([1, 2], [1, 2, 3]), ragged([1, 2, 3], [1, 2])
    links = alignment.read_pharaoh(["1-0 0-1 1-2\n", "0-1 2-0\n"], source, target)
    assert links.tolist() == [1, 0, 1, 2, 0]


def test_pharaoh_keeps_of_several_links_the_one_nearest_to_the_diagonal() -> None:
    source, target = ragged([1, 2, 3, 4], [1, 2]), ragged([1, 2], [1])
    # Row 0: target 1 of 2 lies at 3/4, source 3 of 4 at 7/8, source 0 at 1/8.
    # Row 1: target 0 of 1 lies at 1/2, the two source tokens at 1/4 and 3/4: the left one.
    for lines in (["0-0 0-1 3-1", "0-0 1-0"], ["3-1 0-1 0-0", "1-0 0-0"]):
        assert alignment.read_pharaoh(lines, source, target).tolist() == [0, 3, 0]


def test_pharaoh_gives_every_target_token_a_link() -> None:
    source = ragged([1, 2, 3], [1, 2], [1, 2], [1], [])
    target = ragged([1, 2, 3, 4, 5], [1, 2, 3, 4], [1, 2, 3], [], [])
    links = alignment.read_pharaoh(["2-1 0-3", "", "1-2", "", "\n"], source, target)
    # Row 0: target 0 as 1; 2 lies between 1 and 3: the left one; 4 as 3. Row 1: the diagonal.
    assert links.tolist() == [2, 2, 2, 0, 0, *[0, 0, 1, 1], *[1, 1, 1]]
    counts = alignment.fertilities(links, source, target)
    assert rows_of(counts) == [[2, 0, 3], [2, 2], [0, 3], [0], []]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["0-0", "0-0 1-3"],
            "line 2: 1-3 is out of range, the source has 2 tokens and the target 3",
        ),
        (["0-0", "2-0"], "line 2: 2-0 is out of range"),
        (["0-0", "0-0 1:1"], "line 2: expected .* got '1:1'"),
        (["0-0", "0--1"], "line 2: expected .* got '0--1'"),
        (["0-0"], "expected 2 lines of alignments, one per sentence pair, got 1"),
        (["0-0", "0-0", ""], "expected 2 lines of alignments, one per sentence pair, got more"),
    ],
)
def test_broken_pharaoh_lines_are_named(lines: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        alignment.read_pharaoh(lines, ragged([1], [1, 2]), ragged([1], [1, 2, 3]))

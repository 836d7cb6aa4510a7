"""The closed forms of the prior against their sums; settings that cannot be."""

import math

import pytest

from nat_ar import config_json
from nat_ar.data.alignment import model
from nat_ar.data.alignment.model import AlignerConfig
from nat_ar.data.ragged import Ragged


def test_normaliser_and_mean_feature_equal_their_sums() -> None:
    lengths = [(1, 1), (1, 7), (7, 1), (3, 5), (5, 3), (4, 4), (2, 100), (100, 2), (60, 61)]
    source = Ragged.from_rows([[0] * n for _, n in lengths])
    target = Ragged.from_rows([[0] * m for m, _ in lengths])
    positions = model.list_positions(source, target)
    assert len(positions.position) == sum(m for m, _ in lengths)
    for tension in (0.1, 1.0, 4.0, 14.0):
        normaliser, mean_feature = model.diagonal_prior(tension, positions)
        for place, (i, m, n) in enumerate(
            zip(positions.position, positions.target_length, positions.source_length, strict=True)
        ):
            h = [-abs(i / m - j / n) for j in range(1, n + 1)]
            weight = [math.exp(tension * value) for value in h]
            assert normaliser[place] == pytest.approx(sum(weight), rel=1e-9)
            mean = sum(w * value for w, value in zip(weight, h, strict=True)) / sum(weight)
            assert mean_feature[place] == pytest.approx(mean, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("iterations", 0),
        ("null_probability", 1.0),
        ("tension", 0.0),
        ("flat_iterations", -1),
        ("concentration", 0.0),
        ("chunk_token_pairs", 0),
        ("max_training_pairs", 0),
    ],
)
def test_impossible_settings_are_named(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        AlignerConfig(**{field: value})  # type: ignore[arg-type]


def test_tension_is_optimised_within_its_range_only() -> None:
    AlignerConfig(tension=20.0)
    with pytest.raises(ValueError, match=r"from 0\.1 to 14\.0 where it is optimised, got 20.0"):
        AlignerConfig(tension=20.0, optimise_tension=True)


def test_what_was_prepared_before_there_was_a_limit_of_pairs_has_todays() -> None:
    written = config_json.to_json(AlignerConfig(tension=2.0))
    del written["max_training_pairs"]
    assert config_json.from_json(AlignerConfig, written) == AlignerConfig(tension=2.0)

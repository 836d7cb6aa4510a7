from nat_ar.evaluation import results
from nat_ar.evaluation.table import build, formats


def test_valid_and_mixed_are_columns_of_the_toy_language_only(rows) -> None:
    rows[0] |= {"valid": 61.25, "mixed": 27.5}
    header, _, beam, _, nat, *_ = formats.render(build.build(results.join(rows)), "markdown").split(
        "\n"
    )
    assert header.endswith("| valid % | mixed % |")
    assert nat.endswith("| 61.2 | 27.5 |")
    assert beam.endswith("| n/a | n/a |")

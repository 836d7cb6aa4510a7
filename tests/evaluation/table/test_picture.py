from pathlib import Path

import pytest

from nat_ar.evaluation import results
from nat_ar.evaluation.metrics import METRICS
from nat_ar.evaluation.table import build, picture
from nat_ar.evaluation.table.line import Table


@pytest.fixture
def comparison(quality, speed) -> Table:
    rows = []
    for name, decoding, bleu, latency, method in (
        ("ar", "Beam(size=4)", 34.0, 40.0, "Autoregressive"),
        ("ar", "Greedy()", 33.0, 20.0, "Autoregressive"),
        ("nat", "Argmax()", 27.0, 4.0, "FertilityNat"),
        ("length", "LengthBeam(size=1)", 27.2, 4.1, "LengthNat"),
    ):
        family = "AR" if method == "Autoregressive" else "NAT"
        rows.append(quality(name, decoding, bleu, method=method, family=family, valid=99.0))
        rows.append(speed(name, decoding, latency, method=method, family=family))
    return build.build(results.join(rows))


def test_png_and_svg_are_written_and_equal_pictures_are_equal_files(
    comparison: Table, tmp_path: Path
) -> None:
    png, svg = picture.save(comparison, tmp_path / "pictures" / "quality", title="Toy")
    assert png.read_bytes().startswith(b"\x89PNG")
    first = svg.read_text(encoding="utf-8")
    assert first.startswith("<?xml")
    picture.save(comparison, svg, title="Toy")
    assert svg.read_text(encoding="utf-8") == first


def test_the_picture_says_what_it_shows(comparison: Table) -> None:
    (panel,) = picture.draw(comparison, title="Toy language").axes
    title = panel.get_title(loc="left")
    for part in ("Toy language", "500 sentences", "cpu, 2 threads, float32", "2026-01-03"):
        assert part in title
    assert panel.get_ylabel() == "valid translations, %"
    assert panel.get_xscale() == "log"
    texts = [text.get_text() for text in panel.texts]
    for label in ("ar, Beam", "ar, Greedy", "nat", "length", "AR beam", "AR greedy"):
        assert label in texts


def test_labels_do_not_overlap(comparison: Table) -> None:
    figure = picture.draw(comparison)
    (panel,) = figure.axes
    labels = [text for text in panel.texts if text.get_text() in ("nat", "length")]
    first, second = (label.get_window_extent() for label in labels)
    assert not first.overlaps(second)


def test_each_condition_has_a_panel(quality, speed) -> None:
    rows = [quality("ar", "Greedy()", 30.0), speed("ar", "Greedy()", 20.0)]
    gpu = speed("ar", "Greedy()", 2.0, device="gpu")
    left, right = picture.draw(build.build(results.join([*rows, gpu]))).axes
    assert "cpu, 2 threads" in left.get_title(loc="left")
    assert "gpu, 2 threads" in right.get_title(loc="left")
    assert left.get_ylabel() == "BLEU"


def test_wilson_interval_by_hand() -> None:
    # 50 of 100: centre 0.5, half width 1.96 sqrt(0.25/100 + 1.96^2/40000) / (1 + 1.96^2/100)
    half = picture.wilson(50.0, 100)
    assert (half.low, half.high) == (pytest.approx(40.38, abs=0.01), pytest.approx(59.62, abs=0.01))
    sure = picture.wilson(100.0, 100)
    assert sure.high == pytest.approx(100)
    assert sure.low == pytest.approx(100 / (1 + 1.96**2 / 100))


def test_up_is_better_for_a_metric_of_errors(comparison: Table) -> None:
    bleu, *_, ter = METRICS
    (panel,) = picture.draw(comparison, metric=bleu).axes
    low, high = panel.get_ylim()
    assert (panel.get_ylabel(), low < high) == ("BLEU", True)
    (panel,) = picture.draw(comparison, metric=ter).axes
    low, high = panel.get_ylim()
    assert (panel.get_ylabel(), low > high) == ("TER, lower is better", True)


def test_nothing_to_draw_and_a_wrong_suffix_are_errors(
    comparison: Table, quality, tmp_path: Path
) -> None:
    untimed = build.build(results.join([quality("ar", "Greedy()", 30.0)]))
    with pytest.raises(ValueError, match="nothing to draw"):
        picture.save(untimed, tmp_path / "quality.png")
    with pytest.raises(ValueError, match=r"\.png or \.svg"):
        picture.save(comparison, tmp_path / "quality.jpg")

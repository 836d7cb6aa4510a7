from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from nat_ar.evaluation import results
from nat_ar.evaluation.metrics import METRICS
from nat_ar.evaluation.speed.intervals import Interval
from nat_ar.evaluation.table import build, labels, picture
from nat_ar.evaluation.table.labels import Point
from nat_ar.evaluation.table.line import Table
from nat_ar.evaluation.table.placement import Box


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
    with pytest.raises(ValueError, match=r"\.png, \.svg or \.pdf, or no suffix"):
        picture.save(comparison, tmp_path / "quality.jpg")
    with pytest.raises(ValueError, match=r"a width of 2\.5 inches or more, got 1\.0"):
        picture.save(comparison, tmp_path / "quality.png", width=1.0)


def all_text(figure: Figure) -> list[Text]:
    """What a reader sees."""
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]


@pytest.fixture
def crowd(quality, speed) -> Table:
    """The teacher's two, three on the Pareto front, and ten that are beaten; all NATs are of one kind."""
    systems = [("ar", "Beam(size=4)", 34.0, 40.0), ("ar", "Greedy()", 33.0, 20.0)]
    systems += [(f"front_{i}", "Argmax()", 25.0 + i, 4.0 + i) for i in range(3)]
    systems += [(f"beaten_{i}", "Argmax()", 20.0 + i / 2, 8.0 + i / 2) for i in range(10)]
    rows = []
    for name, decoding, bleu, latency in systems:
        method, family = ("Autoregressive", "AR") if name == "ar" else ("FertilityNat", "NAT")
        rows.append(quality(name, decoding, bleu, method=method, family=family))
        rows.append(speed(name, decoding, latency, method=method, family=family))
    return build.build(results.join(rows))


def test_text_in_svg_and_pdf_is_text(comparison: Table, tmp_path: Path) -> None:
    (svg,) = picture.save(comparison, tmp_path / "quality.svg", title="Toy language")
    for text in ("Toy language, 500 sentences", "AR greedy", "mean latency at batch 1"):
        assert text in svg.read_text("utf-8")
    (pdf,) = picture.save(comparison, tmp_path / "quality.pdf")
    first = pdf.read_bytes()
    assert first.startswith(b"%PDF")
    assert b"/Subtype /Type42" in first or b"/CIDFontType2" in first  # TrueType, not outlines
    picture.save(comparison, pdf)
    assert pdf.read_bytes() == first


@pytest.mark.parametrize("width", [3.3, 2.5])
def test_a_picture_for_a_column_of_a_paper_can_be_read(crowd: Table, width: float) -> None:
    """It has the width that was asked for, type of 7 points or more, and nothing beyond its edges."""
    figure = picture.draw(
        crowd, width=width, title="A title that is longer than the column is wide"
    )
    assert figure.get_size_inches()[0] == width
    assert min(text.get_fontsize() for text in all_text(figure)) >= 7.0
    figure.canvas.draw()  # type: ignore[attr-defined]
    drawn = figure.get_tightbbox()
    assert 0 <= drawn.x0 < drawn.x1 <= width
    assert drawn.y0 >= 0
    height = figure.axes[0].get_window_extent().height / figure.dpi
    assert height > 1.2  # inches for the markers


def test_a_picture_without_its_title(comparison: Table) -> None:
    (panel,) = picture.draw(comparison, has_title=False).axes
    assert panel.get_title(loc="left") == ""


def test_above_a_dozen_the_pareto_front_has_names_and_the_rest_numbers(crowd: Table) -> None:
    figure = picture.draw(crowd)
    (panel,) = figure.axes
    texts = {text.get_text() for text in panel.texts}
    names = {"ar, Beam", "ar, Greedy", "front_0", "front_1", "front_2"}
    assert texts == {*names, "AR beam", "AR greedy", *map(str, range(1, 11))}
    legend = panel.get_legend()
    assert legend is not None
    explained = [text.get_text() for text in legend.get_texts()]
    assert [f"{i + 1}  beaten_{i}" in explained for i in range(10)] == [True] * 10
    for drawn in ("95 % interval", "level with AR beam or AR greedy", "raw data", "FertilityNat"):
        assert drawn in explained


def test_panels_share_one_list_of_numbers(quality, speed) -> None:
    rows = []
    for i in range(14):
        rows += [quality(f"s{i:02}", "Greedy()", 30.0 - i), speed(f"s{i:02}", "Greedy()", 20.0 + i)]
        rows.append(speed(f"s{i:02}", "Greedy()", 2.0 + i, device="gpu"))
    panels = picture.draw(build.build(results.join(rows))).axes
    shown = [{text.get_text() for text in panel.texts} for panel in panels]
    assert {str(i) for i in range(1, 14)} < shown[0]
    assert {str(i) for i in range(14, 27)} < shown[1]


def test_a_dozen_have_their_names(quality, speed) -> None:
    rows = []
    for i in range(labels.NAMED):
        rows += [quality(f"s{i}", "Greedy()", 30.0 - i), speed(f"s{i}", "Greedy()", 20.0 + i)]
    (panel,) = picture.draw(build.build(results.join(rows))).axes
    assert {f"s{i}" for i in range(labels.NAMED)} == {text.get_text() for text in panel.texts}


def test_nothing_covers_the_upright_names(quality, speed) -> None:
    """Markers fill the foot of both lines, and both lines are close to each other."""
    rows = [quality("ar", "Beam(size=4)", 30.0), speed("ar", "Beam(size=4)", 22.0)]
    rows += [quality("ar", "Greedy()", 29.0), speed("ar", "Greedy()", 20.0)]
    for i in range(9):
        rows += [quality(f"s{i}", "Greedy()", 22.0 + i), speed(f"s{i}", "Greedy()", 18.0 + i)]
        rows += [quality(f"t{i}", "Greedy()", 22.5 + i), speed(f"t{i}", "Greedy()", 18.0 + i)]
    table = build.build(results.join(rows))
    for width in (None, 3.3):
        figure = picture.draw(table, width=width)
        (panel,) = figure.axes
        upright = [text for text in panel.texts if text.get_text() in ("AR beam", "AR greedy")]
        assert len(upright) == 2
        others = [text for text in panel.texts if text not in upright]
        markers = [box for p in picture_points(table) for box in labels.footprint(panel, p, 4.5)]
        for name in upright:
            extent = name.get_window_extent()
            assert not any(extent.overlaps(other.get_window_extent()) for other in others)
            here = Box(extent.x0, extent.y0, extent.x1, extent.y1)
            assert sum(here.overlap(box) for box in markers) == 0
        first, second = (name.get_window_extent() for name in upright)
        assert not first.overlaps(second)


def picture_points(table: Table) -> list[Point]:
    return picture._points(table.lines, METRICS[0])


def point(latency: float, quality: float) -> Point:
    around = (Interval(*3 * (float(value),)) for value in (latency, quality))
    return Point("", "", False, "", *around)


def test_the_pareto_front() -> None:
    points = [point(1, 1), point(2, 3), point(3, 2), point(2, 2), point(4, 3)]
    front = [labels.is_on_front(p, points, lower_is_better=False) for p in points]
    assert front == [True, True, False, False, False]
    front = [labels.is_on_front(p, points, lower_is_better=True) for p in points]
    assert front == [True, False, False, False, False]
    twins = [point(1, 1), point(1, 1)]
    assert all(labels.is_on_front(p, twins, lower_is_better=False) for p in twins)

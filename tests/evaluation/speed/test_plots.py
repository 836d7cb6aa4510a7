from pathlib import Path

import pytest

from nat_ar.evaluation.speed import plots


@pytest.fixture
def rows(speed):
    bins = [
        {"bucket": 8, "sentences": 3, "output_tokens": 5.0, "mean": 2.0},
        {"bucket": 16, "sentences": 7, "output_tokens": 11.0, "mean": 5.0},
    ]
    return [
        speed("ar", "Beam(size=4)", 40.0, latency_by_length=bins),
        speed("ar", "Greedy()", 20.0, latency_by_length=bins[:1]),
        speed(
            "nat",
            "LengthBeam(size=1)",
            4.0,
            method="LengthNat",
            family="NAT",
            latency_by_length=bins,
        ),
    ]


def test_every_system_is_a_line(rows) -> None:
    (panel,) = plots.draw_latency(rows).axes
    lines = [line for line in panel.lines if len(line.get_xdata())]
    assert [line.get_label() for line in lines] == [
        "ar, Beam(size=4)",
        "ar, Greedy()",
        "nat, LengthBeam(size=1)",
    ]
    assert [*lines[0].get_xdata()] == [5, 11]
    assert [*lines[0].get_ydata()] == [2, 5]
    looks = {(line.get_color(), line.get_linestyle()) for line in lines}
    assert len(looks) == 3
    (panel,) = plots.draw_throughput(rows).axes
    assert [*panel.lines[1].get_xdata()] == [1, 64]
    assert [*panel.lines[1].get_ydata()] == [50, 400]
    assert "cpu, 2 threads, float32" in panel.get_title(loc="left")


def test_ticks_are_plain_numbers(rows) -> None:
    """Between 25 and 2,000 sentences a second: 50, 100, ..., and nothing like 6x10^1."""
    figure = plots.draw_throughput(rows)
    figure.canvas.draw()
    (panel,) = figure.axes
    low, high = panel.get_ylim()
    ticks = zip(panel.get_yticks(), panel.yaxis.get_ticklabels(), strict=True)
    shown = [label.get_text() for tick, label in ticks if low <= tick <= high]
    assert shown == ["50", "100", "200", "500", "1000", "2000"]
    assert not [text for text in panel.yaxis.get_minorticklabels() if text.get_text()]


def test_both_are_written(rows, tmp_path: Path) -> None:
    names = {path.name for path in plots.save(rows, tmp_path / "plots")}
    stems = ("latency_by_length", "throughput")
    assert names == {f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")}
    assert all((tmp_path / "plots" / name).stat().st_size > 0 for name in names)


def test_rows_that_cannot_be_drawn_are_errors(speed) -> None:
    with pytest.raises(ValueError, match="expected rows"):
        plots.draw_throughput([])
    with pytest.raises(ValueError, match="early version"):
        plots.draw_latency([speed("ar", "Greedy()", 20.0)])

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from nat_ar.evaluation import curves
from nat_ar.evaluation.curves import Training


def rows(*, is_old: bool = False) -> list[dict[str, Any]]:
    """Of 40 steps: an hour and 100 tokens each ten; the best BLEU is that of step 20."""
    found: list[dict[str, Any]] = []
    for step, loss, bleu in ((10, 4.0, 1.0), (20, 3.0, 9.0), (30, 2.5, 8.0), (40, 2.0, 8.5)):
        spent = {} if is_old else {"seconds": 360.0 * step, "target_tokens": 10 * step}
        found.append({"kind": "train", "step": step, "objective": loss, **spent})
        found.append({"kind": "validation", "step": step, "score": bleu, **spent})
    return found


def texts(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]


def test_bleu_and_loss_against_steps_tokens_and_hours() -> None:
    figure = curves.draw([Training("mine", rows())])
    assert len(figure.axes) == 6
    bleu, loss = figure.axes[:3], figure.axes[3:]
    across = [[10, 20, 30, 40], [100, 200, 300, 400], [1.0, 2.0, 3.0, 4.0]]
    for panel, expected in zip(bleu, across, strict=True):
        curve, best = panel.get_lines()
        assert list(curve.get_xdata()) == expected
        assert list(curve.get_ydata()) == [1.0, 9.0, 8.0, 8.5]
        assert list(best.get_xdata()) == [expected[1]]
    for panel, expected in zip(loss, across, strict=True):
        (curve,) = panel.get_lines()
        assert list(curve.get_xdata()) == expected
        assert list(curve.get_ydata()) == [4.0, 3.0, 2.5, 2.0]
    said = [text.get_text() for text in texts(figure)]
    for title in ("steps", "target tokens", "hours of training", "validation BLEU", "mine"):
        assert title in said


def test_files_of_early_versions_have_steps_alone() -> None:
    figure = curves.draw([Training("mine", rows(is_old=True))])
    assert [panel.get_xlabel() for panel in figure.axes] == ["", "steps"]
    figure = curves.draw([Training("mine", rows()), Training("old", rows(is_old=True))])
    assert [len(panel.get_lines()) for panel in figure.axes] == [4, 2, 2, 2, 1, 1]
    said = " ".join(text.get_text() for text in texts(figure))
    assert "target tokens unknown: old; hours of training unknown: old" in said


@pytest.mark.parametrize("width", [2.5, 3.3, 7.0])
def test_curves_can_be_read_at_any_width(width: float) -> None:
    names = ("a_run_with_a_long_name", "another", "third")
    figure = curves.draw([Training(name, rows()) for name in names], width=width)
    assert figure.get_size_inches()[0] == width
    figure.canvas.draw()  # type: ignore[attr-defined]
    assert min(text.get_fontsize() for text in texts(figure)) >= 7.0
    drawn = figure.get_tightbbox()
    assert 0 <= drawn.x0 < drawn.x1 <= width
    assert min(panel.get_window_extent().height for panel in figure.axes) > 0.5 * figure.dpi


def test_nothing_to_draw_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"mine: no curve to draw, metrics\.jsonl has no rows"):
        curves.save([Training("mine", [])], tmp_path / "curves.pdf")
    with pytest.raises(ValueError, match=r"a width of 2\.5 inches or more, got 1"):
        curves.save([Training("mine", rows())], tmp_path / "curves.pdf", width=1.0)


def test_numbers_are_plain() -> None:
    assert [curves._plain(x, 0) for x in (0.4, 60.0, 200.0, 20_000.0, 1.5e6)] == [
        *("0.4", "60", "200", "20k", "1.5M"),
    ]

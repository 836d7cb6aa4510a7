from nat_ar.evaluation.table import placement
from nat_ar.evaluation.table.placement import Box


def test_place_moves_the_second_of_two_labels_at_one_point() -> None:
    box, frame = Box(-20.0, -5.0, 20.0, 5.0), Box(0.0, 0.0, 200.0, 200.0)
    anchors = [(100.0, 100.0), (100.0, 100.0)]
    centres = placement.place([box, box], anchors, [Box(95.0, 95.0, 105.0, 105.0)], frame)
    first, second = (box.shifted(*centre) for centre in centres)
    assert first.overlap(second) == 0
    assert first.overlap(frame) == second.overlap(frame) == box.area == 400


def test_boxes() -> None:
    box = Box(0.0, 0.0, 10.0, 10.0)
    assert box.overlap(Box(5.0, 8.0, 20.0, 20.0)) == 10
    assert box.overlap(Box(10.0, 0.0, 20.0, 10.0)) == 0
    assert box.distance(Box(13.0, 14.0, 20.0, 20.0)) == 5

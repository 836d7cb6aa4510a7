"""Positions of labels in a picture, so that they cover little and stay near their markers. Geometry only."""

import dataclasses
import itertools
import math
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: "Box") -> float:
        """The common area in square pixels."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(0.0, width) * max(0.0, height)

    def distance(self, other: "Box") -> float:
        """Pixels between the nearest edges; 0 if they touch or overlap."""
        across = max(self.left - other.right, other.left - self.right, 0.0)
        return math.hypot(across, max(self.bottom - other.top, other.bottom - self.top, 0.0))

    def shifted(self, x: float, y: float) -> "Box":
        return Box(self.left + x, self.bottom + y, self.right + x, self.top + y)

    @property
    def area(self) -> float:
        return (self.right - self.left) * (self.top - self.bottom)


def place(
    boxes: Sequence[Box],
    anchors: Sequence[tuple[float, float]],
    obstacles: Sequence[Box],
    frame: Box,
    *,
    forbidden: Sequence[Box] = (),
) -> list[tuple[float, float]]:
    """The centre of each label, in pixels.

    boxes: each label's extent, centred at (0, 0). anchors: the marker of each label. obstacles: areas to keep free;
    forbidden: areas that are left free whatever else is covered.
    Every label tries 24 directions at growing distances and takes the cheapest position (covered area, distance);
    three rounds, since a label that moves may free a better position for an earlier one. Deterministic."""
    centres = list(anchors)
    placed: list[Box | None] = [None] * len(boxes)
    for _, index in itertools.product(range(3), range(len(boxes))):
        box, (x, y) = boxes[index], anchors[index]
        others = [other for other in placed[:index] + placed[index + 1 :] if other is not None]
        best = math.inf
        for gap, turn in itertools.product((6, 10, 14, 22, 34, 50, 70, 95), range(24)):
            angle = 2 * math.pi * turn / 24
            centre = (
                x + math.cos(angle) * (gap + box.right),
                y + math.sin(angle) * (gap + box.top),
            )
            here = box.shifted(*centre)
            cost = (
                20 * (box.area - here.overlap(frame))
                + 10 * sum(here.overlap(other) for other in others)
                + 5 * sum(here.overlap(obstacle) for obstacle in obstacles)
                + 1000 * sum(here.overlap(area) for area in forbidden)
                + 8 * gap
                + 2 * abs(math.sin(angle)) * gap
            )
            if cost < best - 1e-9:
                best, centres[index], placed[index] = cost, centre, here
    return centres

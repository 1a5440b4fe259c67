"""The 24 charts of the body, what they are called, and how they are grouped.

Names and sides are those of the person. The sides are read off the surface's own vertices
(`UV_Processed.mat`: chart 5 has the vertices of the left big toe, 23 those of the right ear);
DensePose's issues and some tools have the feet the other way round. Which half of a limb is the
back, or the inside, is as pupil-labs/densepose-module names it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Side: TypeAlias = Literal["left", "right"]
Grouping: TypeAlias = Literal["24", "14", "sides", "limbs"]


@dataclass(frozen=True, slots=True)
class Part:
    """One chart; `mirror` is the chart that it becomes in a mirrored picture.

    `coarse` is its label among DensePose's 14 coarse parts.
    """

    number: int
    name: str
    side: Side | None
    mirror: int
    coarse: int
    limb: str


# Symmetries from densepose/structures/transform_data.py, coarse parts from
# densepose/data/samplers/densepose_base.py.
PARTS = (
    Part(1, "torso back", None, 1, 1, "torso"),
    Part(2, "torso front", None, 2, 1, "torso"),
    Part(3, "right hand", "right", 4, 2, "arms"),
    Part(4, "left hand", "left", 3, 3, "arms"),
    Part(5, "left foot", "left", 6, 4, "legs"),
    Part(6, "right foot", "right", 5, 5, "legs"),
    Part(7, "right upper leg back", "right", 8, 6, "legs"),
    Part(8, "left upper leg back", "left", 7, 7, "legs"),
    Part(9, "right upper leg front", "right", 10, 6, "legs"),
    Part(10, "left upper leg front", "left", 9, 7, "legs"),
    Part(11, "right lower leg back", "right", 12, 8, "legs"),
    Part(12, "left lower leg back", "left", 11, 9, "legs"),
    Part(13, "right lower leg front", "right", 14, 8, "legs"),
    Part(14, "left lower leg front", "left", 13, 9, "legs"),
    Part(15, "left upper arm inside", "left", 16, 10, "arms"),
    Part(16, "right upper arm inside", "right", 15, 11, "arms"),
    Part(17, "left upper arm outside", "left", 18, 10, "arms"),
    Part(18, "right upper arm outside", "right", 17, 11, "arms"),
    Part(19, "left lower arm inside", "left", 20, 12, "arms"),
    Part(20, "right lower arm inside", "right", 19, 13, "arms"),
    Part(21, "left lower arm outside", "left", 22, 12, "arms"),
    Part(22, "right lower arm outside", "right", 21, 13, "arms"),
    Part(23, "head right", "right", 24, 14, "head"),
    Part(24, "head left", "left", 23, 14, "head"),
)
NUM_PARTS = len(PARTS)

COARSE_NAMES = (
    *("torso", "right hand", "left hand", "left foot", "right foot"),
    *("right upper leg", "left upper leg", "right lower leg", "left lower leg"),
    *("left upper arm", "right upper arm", "left lower arm", "right lower arm", "head"),
)

# For each grouping, the charts of each of its groups; the torso is on neither side.
GROUPS: Mapping[Grouping, Mapping[str, tuple[int, ...]]] = {
    "24": {part.name: (part.number,) for part in PARTS},
    "14": {
        name: tuple(part.number for part in PARTS if part.coarse == coarse)
        for coarse, name in enumerate(COARSE_NAMES, start=1)
    },
    "sides": {
        side: tuple(part.number for part in PARTS if part.side == side)
        for side in ("left", "right")
    },
    "limbs": {
        limb: tuple(part.number for part in PARTS if part.limb == limb)
        for limb in ("head", "torso", "arms", "legs")
    },
}

"""What can be drawn or written for the next tool, and what a client may change of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeAlias

from service.datatypes import AnyMap
from service.output.media import PNG
from service.output.palettes import Palette

Kind: TypeAlias = Literal["chart", "cse"]
# Besides these, #rrggbb.
BACKGROUNDS = ("photo", "grey", "black", "palette", "transparent")
PEOPLE = ("all", "best", "largest")


class Drawing(StrEnum):
    """How a preset comes about; the first six have samples, the others are files of records."""

    CHANNELS = "the channels as they are, on 0"
    PALETTE = "one channel in the colours of a palette"
    BOXES = "boxes and scores"
    TEXTURE = "an atlas on the body"
    VERTICES = "the vertices' colours"
    UV = "U and V as floats, 0 off the body"
    COCO = "COCO results"
    DUMP = "detectron2's dump"


@dataclass(frozen=True, slots=True)
class Tool:
    """Who reads a preset, and what it asks of the model itself; None where that is not known.

    With these values the preset equals the tool's own picture. They are for the client to ask for.
    """

    name: str
    min_score: float | None = None
    max_instances: int | None = None
    people: str = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A picture or file as its tools read it; the first tool is the one it is best known by.

    `channels` are those of the file, in its order; with `Drawing.PALETTE`, `shown` is the one that
    is coloured. `needs` has the maps that it is made of, for each kind of model that can give it.
    Where it `fills_box`, a figure covers its whole region, and not its body alone. Palette, alpha
    and background are None where they mean nothing.
    """

    name: str
    description: str
    tools: tuple[Tool, ...]
    source: str
    drawing: Drawing
    needs: Mapping[Kind, frozenset[AnyMap]]
    channels: tuple[str, ...] = ("R", "G", "B")
    shown: str = "255 I / 24"
    fills_box: bool = False
    media_type: str = PNG
    palette: Palette | None = None
    alpha: float | None = None
    background: str | None = None

    @property
    def has_samples(self) -> bool:
        """Whether it is an array over the image, of whatever size is asked for."""
        return self.drawing not in {Drawing.COCO, Drawing.DUMP}


@dataclass(frozen=True, slots=True)
class Style:
    """A preset with what a client changed of it; what means nothing to the preset is not looked at.

    `people` is all, best, largest, or an index; `size_wh` is None where the image's own is kept.
    """

    preset: Preset
    palette: Palette = Palette.PARULA
    alpha: float = 1.0
    background: str = "black"
    is_best_on_top: bool = False
    people: str | int = "all"
    size_wh: tuple[int, int] | None = None
    image_id: int = 0

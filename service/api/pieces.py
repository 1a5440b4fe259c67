"""An answer on its way to bytes: what is to be written, and its parts, made side by side."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from service.api.plan import Plan
from service.datatypes import Map, Prediction, RegionXYWH
from service.output.drawing import Scenery
from service.output.maps import EncodedMap
from service.output.media import SUFFIXES

# Whose the maps of the whole image are.
IMAGE = "image"


@dataclass(frozen=True, slots=True)
class Draft:
    """All that an answer is written from."""

    plan: Plan
    prediction: Prediction
    scenery: Scenery = field(default_factory=Scenery)


@dataclass(frozen=True, slots=True)
class Canvas:
    """Maps that are encoded together, what they show, and whose they are: an index, or IMAGE."""

    owner: str
    maps: Mapping[str, Map]
    region_xywh: RegionXYWH
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """Files of one owner or, for an answer of arrays, its maps. The render has no owner."""

    owner: str = ""
    files: tuple[EncodedMap, ...] = ()
    maps: Mapping[str, Map] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """What it takes in memory."""
        files = sum(file.num_bytes for file in self.files)
        return files + sum(map_.samples.nbytes for map_ in self.maps.values())

    def qualified(self, name: str) -> str:
        """The name of a map among those of all owners."""
        return f"{self.owner}.{name}" if self.owner else name

    def name_in_archive(self, file: EncodedMap) -> str:
        """The name of a file among those of all owners."""
        return f"{self.qualified(file.name)}.{SUFFIXES[file.media_type]}"

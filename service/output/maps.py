"""One map as a file.

Every PNG says what it is in text chunks:

| key | value |
|---|---|
| `Software` | `densepose-serving` |
| `model` | the model's id |
| `output` | the map's name, as in the API |
| `channels` | what the samples are, comma separated, in the order of the file |
| `region` | x, y, width, height in pixels of the image, comma separated: what the map covers |
| `score` | the instance's; of a map over the whole image those of all, comma separated |
| `scale`, `offset` | where samples are quantized: value = offset + scale * sample |
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pybase64

from service.datatypes import Map, Output, RegionXYWH
from service.output.archives import write_npy
from service.output.media import NPY, PNG
from service.output.png import encode_png

SOFTWARE = "densepose-serving"

# A confidence's channel is the field after the dot in its name.
_CHANNELS: Mapping[str, str] = {
    Output.IUV: "I,U,V",
    Output.IUV16: "I,U,V",
    Output.LABELS: "I",
    Output.COARSE: "coarse label",
    Output.MASK: "mask",
    Output.TEXTURE: "R,G,B,coverage",
    Output.VERTICES: "vertex index + 1",
    Output.VERTEX_COLOURS: "R,G,B",
}


@dataclass(frozen=True, slots=True)
class EncodedMap:
    """A map as a file; `scale` and `offset` as in `Map`."""

    name: str
    media_type: str
    width: int
    height: int
    data: bytes
    scale: float | None = None
    offset: float | None = None

    def base64_text(self) -> str:
        """The file in the standard alphabet of base64."""
        return pybase64.b64encode_as_string(self.data)


def encode_map(
    name: str, map_: Map, *, model: str, region_xywh: RegionXYWH, scores: Sequence[float]
) -> EncodedMap:
    """The map as a PNG file or, if its samples are floats, as a NumPy file.

    It holds no lock while it works, so maps may be encoded in parallel threads.
    """
    if map_.samples.dtype.kind == "f":
        height, width = map_.samples.shape[-2:]
        return EncodedMap(name, NPY, width, height, write_npy(map_.samples))
    height, width = map_.samples.shape[:2]
    text = {
        "Software": SOFTWARE,
        "model": model,
        "output": name,
        "channels": _CHANNELS.get(name) or name.partition(".")[2],
        "region": ",".join(map(str, region_xywh)),
        "score": ",".join(f"{score:.6g}" for score in scores),
    }
    if map_.scale is not None and map_.offset is not None:
        text |= {"scale": repr(float(map_.scale)), "offset": repr(float(map_.offset))}
    data = encode_png(map_.samples, text)
    return EncodedMap(name, PNG, width, height, data, map_.scale, map_.offset)

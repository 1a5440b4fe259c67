"""One map, or one picture of a preset, as a file.

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

from collections.abc import Sequence
from dataclasses import dataclass

from service.datatypes import MAPS, Map, Output, Prediction, RegionXYWH
from service.output.archives import npy_of, pack_arrays
from service.output.chunks import Chunks, Count, count_nothing, join, total_bytes
from service.output.coco import write_results
from service.output.drawing import Scenery, draw
from service.output.dump import describe_image, flatten_entries
from service.output.figures import choose_figures
from service.output.media import NPY, PNG
from service.output.png import write_png
from service.output.presets import Drawing, Style

SOFTWARE = "densepose-serving"
# What a preset's file is called among maps.
RENDER = "render"


@dataclass(frozen=True, slots=True)
class EncodedMap:
    """A map as a file; `scale` and `offset` as in `Map`. Whoever writes it on empties `chunks`."""

    name: str
    media_type: str
    width: int
    height: int
    chunks: Chunks
    scale: float | None = None
    offset: float | None = None

    @property
    def num_bytes(self) -> int:
        """The file's length."""
        return total_bytes(self.chunks)

    @property
    def data(self) -> bytes:
        """The whole file."""
        return join(self.chunks)


def encode_map(
    name: str,
    map_: Map,
    *,
    model: str,
    region_xywh: RegionXYWH,
    scores: Sequence[float],
    count: Count = count_nothing,
) -> EncodedMap:
    """The map as a PNG file or, if its samples are floats, as a NumPy file, which shares them.

    What is written is counted on the way.
    It holds no lock while it works, so maps may be encoded in parallel threads.
    """
    if map_.samples.dtype.kind == "f":
        height, width = map_.samples.shape[-2:]
        return EncodedMap(name, NPY, width, height, npy_of(map_.samples))
    height, width = map_.samples.shape[:2]
    output, _, field = name.partition(".")
    text = {
        "Software": SOFTWARE,
        "model": model,
        "output": name,
        # A confidence's channel is the field after the dot in its name.
        "channels": field or MAPS[Output(output)].channels,
        "region": ",".join(map(str, region_xywh)),
        "score": ",".join(f"{score:.6g}" for score in scores),
    }
    if map_.scale is not None and map_.offset is not None:
        text |= {"scale": repr(float(map_.scale)), "offset": repr(float(map_.offset))}
    chunks = write_png(map_.samples, text, count)
    return EncodedMap(name, PNG, width, height, chunks, map_.scale, map_.offset)


def write_render(
    style: Style,
    prediction: Prediction,
    scenery: Scenery,
    *,
    model: str,
    count: Count = count_nothing,
) -> EncodedMap:
    """The file that the preset's tool reads; what is written is counted on the way."""
    if not style.preset.has_samples:
        height, width = prediction.image_size_hw
        return _file(style, width, height, _write_records(style, prediction, count))
    samples = draw(style, prediction, scenery, count)
    if style.preset.media_type == PNG:
        height, width = samples.shape[:2]
        channels = style.preset.channels
        if samples.ndim == 3 and samples.shape[2] > len(channels):
            channels = (*channels, "opacity")
        text = {
            "Software": SOFTWARE,
            "model": model,
            "output": f"{RENDER} {style.preset.name}",
            "channels": ",".join(channels),
            "region": "0,0,{1},{0}".format(*prediction.image_size_hw),
            "score": ",".join(f"{instance.score:.6g}" for instance in prediction.instances),
        }
        return _file(style, width, height, write_png(samples, text, count))
    height, width = samples.shape[-2:]
    if style.preset.media_type == NPY:
        return _file(style, width, height, npy_of(samples))
    return _file(style, width, height, pack_arrays({"uv": samples}, count))


def _write_records(style: Style, prediction: Prediction, count: Count) -> Chunks:
    figures = choose_figures(
        prediction.instances, style.people, is_best_on_top=style.is_best_on_top
    )
    if style.preset.drawing is Drawing.COCO:
        return write_results(figures, prediction.image_size_hw, style.image_id, count)
    entries = [describe_image([figure.instance for figure in figures])]
    return pack_arrays(flatten_entries(entries), count)


def _file(style: Style, width: int, height: int, chunks: Chunks) -> EncodedMap:
    return EncodedMap(RENDER, style.preset.media_type, width, height, chunks)

"""A preset as a file."""

from service.datatypes import Prediction
from service.output.archives import npy_of, pack_arrays
from service.output.chunks import Chunks, Count, count_nothing
from service.output.coco import write_results
from service.output.drawing import Scenery, draw
from service.output.dump import describe_image, flatten_entries
from service.output.figures import choose_figures
from service.output.maps import SOFTWARE, EncodedMap
from service.output.media import NPY, PNG
from service.output.png import write_png
from service.output.presets import Drawing, Style

NAME = "render"


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
            "output": f"{NAME} {style.preset.name}",
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
    return EncodedMap(NAME, style.preset.media_type, width, height, chunks)

"""A preset as a file."""

import json

from service.datatypes import Prediction
from service.output.archives import write_npy, write_npz
from service.output.coco import describe_results
from service.output.drawing import Scenery, draw
from service.output.dump import describe_image, flatten_entries
from service.output.figures import choose_figures
from service.output.maps import SOFTWARE, EncodedMap
from service.output.media import NPY, PNG
from service.output.png import encode_png
from service.output.presets import Drawing, Style

NAME = "render"


def write_render(
    style: Style, prediction: Prediction, scenery: Scenery, *, model: str
) -> EncodedMap:
    """The file that the preset's tool reads."""
    if not style.preset.has_samples:
        height, width = prediction.image_size_hw
        return _file(style, width, height, _write_records(style, prediction))
    samples = draw(style, prediction, scenery)
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
        return _file(style, width, height, encode_png(samples, text))
    height, width = samples.shape[-2:]
    data = write_npy(samples)
    if style.preset.media_type != NPY:
        data = write_npz({"uv": samples})
    return _file(style, width, height, data)


def _write_records(style: Style, prediction: Prediction) -> bytes:
    figures = choose_figures(
        prediction.instances, style.people, is_best_on_top=style.is_best_on_top
    )
    if style.preset.drawing is Drawing.COCO:
        results = describe_results(figures, prediction.image_size_hw, style.image_id)
        return json.dumps(results).encode()
    return write_npz(flatten_entries([describe_image([figure.instance for figure in figures])]))


def _file(style: Style, width: int, height: int, data: bytes) -> EncodedMap:
    return EncodedMap(NAME, style.preset.media_type, width, height, data)

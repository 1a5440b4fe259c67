"""The samples of a preset: a picture of the whole image, of its size or another.

Everything is R, G, B here, but for the photo, which is B, G, R as it was decoded.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import DTypeLike, NDArray

from service.datatypes import (
    TEXTURE_COLUMNS,
    TEXTURE_ROWS,
    AnyMap,
    Image,
    Output,
    Prediction,
    RawMap,
    SizeHW,
)
from service.output.canvas import Grid, Placement
from service.output.chunks import Count, count_nothing
from service.output.figures import Figure, choose_figures
from service.output.media import NPY
from service.output.palettes import colours_of
from service.output.presets import Drawing, Preset, Style

Canvas: TypeAlias = NDArray[np.uint8]

# detectron2/projects/DensePose/densepose/vis/base.py, there as B, G, R
BOX_COLOUR = (15, 127, 18)
SCORE_COLOUR = (218, 227, 218)
SCORE_SCALE = 0.35


@dataclass(frozen=True, slots=True)
class Scenery:
    """What a picture needs besides the prediction: the photo, or an atlas of `textures`."""

    photo: Image | None = None
    atlas: NDArray[np.uint8] | None = None

    @property
    def num_bytes(self) -> int:
        """What both take in memory."""
        photo = 0 if self.photo is None else self.photo.pixels_HW3.nbytes
        return photo + (0 if self.atlas is None else self.atlas.nbytes)


def draw(
    style: Style, prediction: Prediction, scenery: Scenery, count: Count = count_nothing
) -> NDArray[Any]:
    """The samples: uint8 [H, W] or [H, W, 3 or 4], or the floats [2, H, W] of U and V.

    With a transparent background there is a fourth channel: how opaque a pixel is. `count` is
    called now and then with 0, so that it can end the drawing.
    """
    size_hw = prediction.image_size_hw
    if style.size_wh is not None:
        size_hw = style.size_wh[1], style.size_wh[0]
    grid = Grid(prediction.image_size_hw, size_hw)
    figures = choose_figures(
        prediction.instances, style.people, is_best_on_top=style.is_best_on_top
    )
    match style.preset.drawing:
        case Drawing.CHANNELS:
            return _draw_channels(_strips_of(figures, count), grid, style.preset)
        case Drawing.UV:
            dtype = np.float64 if style.preset.media_type == NPY else np.float32
            is_raw = RawMap.UV in style.preset.needs["chart"]
            name: AnyMap = RawMap.UV if is_raw else Output.UV
            return _draw_uv(_strips_of(figures, count), grid, name, dtype)
    canvas = _background(style, size_hw, scenery.photo)
    if style.preset.drawing is Drawing.BOXES:
        for figure in figures:
            _draw_box(canvas, figure, grid)
    else:
        for figure in _strips_of(figures, count):
            _draw_figure(canvas, figure, grid, style, scenery)
    return canvas


def _draw_channels(strips: Iterable[Figure], grid: Grid, preset: Preset) -> NDArray[np.uint8]:
    channels = preset.channels
    shape = grid.size_hw if len(channels) == 1 else (*grid.size_hw, len(channels))
    canvas = np.zeros(shape, np.uint8)
    for figure in strips:
        place = grid.place(figure.instance.region_xywh)
        values = [figure.channel(name) for name in channels]
        samples = values[0] if len(values) == 1 else np.asarray(cv2.merge(values))
        mask = figure.mask()
        place.paint(canvas, samples, np.full_like(mask, 255) if preset.fills_box else mask)
    return canvas


def _draw_uv(strips: Iterable[Figure], grid: Grid, name: AnyMap, dtype: DTypeLike) -> NDArray[Any]:
    canvas: NDArray[Any] = np.zeros((2, *grid.size_hw), dtype)
    for figure in strips:
        place, mask = grid.place(figure.instance.region_xywh), figure.mask()
        for plane_HW, plane_hw in zip(canvas, figure.instance.maps[name].samples, strict=True):
            place.paint(plane_HW, plane_hw.astype(dtype, copy=False), mask)
    return canvas


def _strips_of(figures: Iterable[Figure], count: Count) -> Iterator[Figure]:
    """All figures in parts, so that what is worked out of one is never as large as the picture."""
    for figure in figures:
        for strip in figure.strips():
            count(0)
            yield strip


def _draw_figure(
    canvas: Canvas, figure: Figure, grid: Grid, style: Style, scenery: Scenery
) -> None:
    """Lay the colours of one figure over what the canvas has."""
    place = grid.place(figure.instance.region_xywh)
    mask = place.take(figure.mask())
    if not mask.size:
        return
    if style.preset.drawing is Drawing.TEXTURE:
        _draw_texture(canvas, figure, place, style.alpha, scenery)
        return
    if style.preset.drawing is Drawing.PALETTE:
        values = place.take(figure.channel(style.preset.shown))
        colours = cv2.applyColorMap(values, colours_of(style.palette)[:, None])
    else:
        colours = place.take(figure.instance.maps[Output.VERTEX_COLOURS].samples)
    here = canvas[place.rows, place.columns]
    if here.shape[2] == 4:
        colours = np.dstack((colours, np.full(mask.shape, round(255 * style.alpha), np.uint8)))
    elif style.alpha < 1:
        # One index into the table, which is four times as fast as two.
        colours = _blends(style.alpha).take(here.astype(np.uint16) << 8 | np.asarray(colours))
    place.copy(np.asarray(colours), mask, canvas)


def _draw_texture(
    canvas: Canvas, figure: Figure, place: Placement, alpha: float, scenery: Scenery
) -> None:
    if scenery.atlas is None:
        raise ValueError("There is no atlas to draw.")
    labels, mask = place.take(figure.channel("I")), place.take(figure.mask())
    uv = np.stack([place.take(plane) for plane in figure.instance.maps[Output.UV].samples])
    texels, opacity = look_up_texels(scenery.atlas, labels, uv)
    opacity = alpha * opacity[..., None]
    here = canvas[place.rows, place.columns]
    if here.shape[2] == 4:
        mask = mask * (opacity[..., 0] > 0)
        texels = np.dstack((texels, np.rint(255 * opacity).astype(np.uint8)))
    else:
        texels = (here * (1 - opacity) + texels * opacity).astype(np.uint8)
    place.copy(texels, mask, canvas)


def _draw_box(canvas: Canvas, figure: Figure, grid: Grid) -> None:
    (image_height, image_width), (height, width) = grid.image_size_hw, grid.size_hw
    scales = (width / image_width, height / image_height) * 2
    x0, y0, x1, y1 = (
        int(side * scale) for side, scale in zip(figure.instance.box_xyxy, scales, strict=True)
    )
    cv2.rectangle(canvas, (x0, y0), (x1, y1), (*BOX_COLOUR, 255), thickness=1)
    cv2.putText(
        canvas,
        f"{figure.instance.score:6.4f}",
        (x0, y0),
        cv2.FONT_HERSHEY_SIMPLEX,
        SCORE_SCALE,
        (*SCORE_COLOUR, 255),
        thickness=1,
        lineType=cv2.LINE_AA,
    )


def _background(style: Style, size_hw: SizeHW, photo: Image | None) -> Canvas:
    match style.background:
        case "photo" | "grey":
            if photo is None:
                raise ValueError("There is no photo to draw on.")
            return _resize_photo(photo, size_hw, is_grey=style.background == "grey")
        case "black":
            return np.zeros((*size_hw, 3), np.uint8)
        case "transparent":
            return np.zeros((*size_hw, 4), np.uint8)
        case "palette":
            colour = colours_of(style.palette)[0]
        case _:
            colour = np.frombuffer(bytes.fromhex(style.background.removeprefix("#")), np.uint8)
    return np.tile(colour, (*size_hw, 1))


def _resize_photo(photo: Image, size_hw: SizeHW, *, is_grey: bool) -> Canvas:
    pixels = photo.pixels_HW3
    if size_hw != photo.size_hw:
        is_smaller = size_hw[0] <= photo.size_hw[0] and size_hw[1] <= photo.size_hw[1]
        how = cv2.INTER_AREA if is_smaller else cv2.INTER_LINEAR
        pixels = np.asarray(cv2.resize(pixels, size_hw[::-1], interpolation=how), np.uint8)
    if is_grey:
        grey = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
        return np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), np.uint8)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def _blends(alpha: float) -> NDArray[np.uint8]:
    """Every sample [256] below every one [256] above at this opacity.

    Truncated as detectron2 does it, densepose/vis/base.py: MatrixVisualizer.
    """
    samples = np.arange(256)
    return (samples[:, None] * (1.0 - alpha) + samples * alpha).astype(np.uint8)


def look_up_texels(
    atlas: NDArray[np.uint8], labels_hw: NDArray[np.uint8], uv_2hw: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """R, G and B, uint8 [h, w, 3], and opacity, 0..1 [h, w], that the atlas has for each pixel.

    The atlas is uint8 [6 N, 4 N, 3 or 4], R, G, B and perhaps alpha; without it, black texels are
    transparent. Off the body they mean nothing. In the order of floating-point operations of
    detectron2's densepose/vis/densepose_results_textures.py.
    """
    side = atlas.shape[0] // TEXTURE_ROWS
    u_hw, v_hw = uv_2hw
    part_hw = np.maximum(labels_hw, 1).astype(np.intp) - 1
    columns_hw = part_hw // TEXTURE_ROWS * side + (u_hw * (side - 1)).astype(np.intp)
    rows_hw = part_hw % TEXTURE_ROWS * side + ((1 - v_hw) * (side - 1)).astype(np.intp)
    texels = atlas.reshape(-1, atlas.shape[2]).take(rows_hw * atlas.shape[1] + columns_hw, axis=0)
    if texels.shape[-1] == 4:
        return texels[..., :3], texels[..., 3] / 255.0
    return texels, texels.any(axis=-1).astype(np.float64)


def is_atlas_shape(height: int, width: int) -> bool:
    """Whether a picture of this size can be an atlas: 6 N high and 4 N wide."""
    side = height // TEXTURE_ROWS
    return side > 0 and (height, width) == (TEXTURE_ROWS * side, TEXTURE_COLUMNS * side)

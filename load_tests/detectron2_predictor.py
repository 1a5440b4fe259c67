"""detectron2's `DefaultPredictor` and its converters, with weights and instances from memory.

detectron2 is no dependency of this project: put its folder and its `projects/DensePose` on
PYTHONPATH, with fvcore, iopath, yacs, omegaconf, pycocotools and av installed.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import densepose
import numpy as np
import torch
from densepose.modeling.cse.utils import get_closest_vertices_mask_from_ES
from densepose.vis.extractor import DensePoseResultExtractor
from detectron2.config import get_cfg
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from numpy.typing import NDArray

from load_tests.stages import MAPS, PREPROCESS, stopwatch
from model_store.catalogue import ModelCard
from service.datatypes import BoxXYXY


class Detectron2:
    """Describes the same images as our predictor, the same way as far as it lets itself be asked.

    Without boxes the best `num_instances` are described, however bad they are.
    """

    def __init__(
        self,
        card: ModelCard,
        arrays: Mapping[str, NDArray[np.float32]],
        device: torch.device,
        *,
        num_instances: int,
        boxes: Sequence[BoxXYXY] | None,
    ) -> None:
        settings = get_cfg()
        densepose.add_densepose_config(settings)
        settings.merge_from_file(str(_config_file(card)))
        settings.MODEL.DEVICE, settings.MODEL.WEIGHTS = str(device), ""
        settings.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
        settings.TEST.DETECTIONS_PER_IMAGE = num_instances
        for embedder in settings.MODEL.ROI_DENSEPOSE_HEAD.CSE.EMBEDDERS.values():
            embedder.INIT_FILE = ""
        self.network: Any = build_model(settings).eval()
        state = {name: torch.from_numpy(array) for name, array in arrays.items()}
        self.network.load_state_dict(state, strict=False)
        self._device = device
        self._boxes = boxes
        self._resize = ResizeShortestEdge([card.short_side, card.short_side], card.long_side)
        self._extract = DensePoseResultExtractor()
        self._convert: Callable[[Any], object] = self._charts
        if card.kind == "cse":
            self._convert = self._vertices
            with torch.no_grad():
                (mesh,) = card.architecture.meshes
                self._embeddings = self.network.roi_heads.embedder(mesh)

    @torch.no_grad()
    def describe(self, images: Sequence[NDArray[np.uint8]]) -> dict[str, float]:
        """What `DefaultPredictor.__call__` does, then every instance's maps, on the host.

        The answer has the seconds of what is outside the network.
        """
        seconds: dict[str, float] = {}
        with stopwatch(seconds, PREPROCESS):
            inputs = [self._prepare(pixels_HW3) for pixels_HW3 in images]
        given = None if self._boxes is None else [self._given(one["image"]) for one in inputs]
        answers = self.network.inference(inputs, given)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        with stopwatch(seconds, MAPS):
            for answer in answers:
                self._convert(answer["instances"])
        return seconds

    def _prepare(self, pixels_HW3: NDArray[np.uint8]) -> dict[str, Any]:
        resized = self._resize.get_transform(pixels_HW3).apply_image(pixels_HW3)
        height, width = pixels_HW3.shape[:2]
        image = torch.as_tensor(resized.astype("float32").transpose(2, 0, 1))
        return {"image": image, "height": height, "width": width}

    def _given(self, image_3HW: torch.Tensor) -> Any:
        instances = Instances(tuple(image_3HW.shape[1:]))
        instances.pred_boxes = Boxes(torch.tensor(self._boxes, device=self._device))
        count = len(instances.pred_boxes)
        instances.pred_classes = torch.zeros(count, dtype=torch.int64, device=self._device)
        instances.scores = torch.ones(count, device=self._device)
        return instances

    def _charts(self, instances: Any) -> object:
        results, _ = self._extract(instances)
        return [(result.labels.cpu(), result.uv.cpu()) for result in results or ()]

    def _vertices(self, instances: Any) -> object:
        sides = instances.pred_boxes.tensor[:, 2:] - instances.pred_boxes.tensor[:, :2]
        described = instances.pred_densepose
        return [
            get_closest_vertices_mask_from_ES(
                described.embedding[[index]],
                described.coarse_segm[[index]],
                max(int(height), 1),
                max(int(width), 1),
                self._embeddings,
                self._device,
            )[0].cpu()
            for index, (width, height) in enumerate(sides.tolist())
        ]


def _config_file(card: ModelCard) -> Path:
    folder = Path(densepose.__file__).parents[1] / "configs"
    if card.kind == "cse":
        return folder / "cse" / f"densepose_rcnn_{card.id.removeprefix('cse_')}.yaml"
    return folder / f"densepose_rcnn_{card.id}.yaml"

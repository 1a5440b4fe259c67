"""Images in, predictions out, on one device.

Shape letters: R boxes of all images of a batch.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from model_store.catalogue import ModelCard
from service.datatypes import (
    AnyMap,
    Instance,
    Map,
    Output,
    Prediction,
    Query,
    RegionXYWH,
    Sample,
    SizeHW,
    region_of,
)
from service.errors import ServiceError
from service.inference.chart_maps import ChartMaps, confidence_names, gather_textures
from service.inference.detection import Found
from service.inference.devices import StageClock, to_device, traits_of
from service.inference.embedding_maps import EmbeddingMaps
from service.inference.graphs import GraphCapture
from service.inference.map_buffer import Chunk, MapBuffer, MapLayout, MapReader, num_bytes
from service.inference.regions import num_pixels
from service.inference.steps import NetworkSteps
from service.network.backbone import fold_batch_norms
from service.network.rcnn import DensePoseRCNN, as_rois

# Batches of which graphs are captured before anybody asks.
COMMON_BATCHES = (1, 2, 4, 8)
SMALL_SHAPES = ((1, (128, 128)),)
# Images whose maps are small have them in one piece of memory, and cross to the host at once.
# Larger ones have their own, so that it is freed with their own answer, and no image has room in it
# for the outputs of another.
MAX_SHARED_BYTES = 2**25


class Predictor:
    """One model, resident on one device. One thread at a time."""

    def __init__(
        self,
        network: DensePoseRCNN,
        card: ModelCard,
        device: torch.device,
        dtype: torch.dtype,
        capture: GraphCapture | None = None,
    ) -> None:
        """Takes over a network with float32 weights; convolutions will compute in `dtype`.

        Where `capture` is given, what is asked for often is captured and replayed.
        """
        self.card = card
        self._device = device
        self._traits = traits_of(device)
        network = network.requires_grad_(requires_grad=False).eval().to(device)
        architecture = card.architecture
        self._confidence_names = confidence_names(architecture.confidence_fields)
        self._maps: ChartMaps | EmbeddingMaps
        if architecture.predictor == "chart":
            self._maps = ChartMaps(architecture.confidence_fields)
        else:
            with torch.inference_mode():
                self._maps = EmbeddingMaps(network.roi_heads.embedder())
        fold_batch_norms(network)
        network.round_weights(dtype)
        # A pixel's channels side by side: what convolutions compute on, and tables are made of.
        self._network = network.to(memory_format=torch.channels_last)
        self._steps = NetworkSteps(self._network, device, dtype, capture)

    @property
    def num_bytes(self) -> int:
        """What its weights take on the device."""
        tensors = (*self._network.parameters(), *self._network.buffers())
        return sum(tensor.nbytes for tensor in tensors)

    @torch.inference_mode()
    def warm_up(self, shapes: Sequence[tuple[int, SizeHW]] | None = None) -> None:
        """Do once what the first requests would wait for; on the device's thread.

        `shapes` are numbers of images and their padded sizes. On CUDA such batches are captured,
        by default those of landscapes and portraits of 4:3; elsewhere there is nothing but first
        calls to get over, for which a small picture does.
        """
        outputs = frozenset({Output.IUV if self.card.kind == "chart" else Output.VERTICES})
        if shapes is None:
            captures = self._traits.captures_graphs
            shapes = _common_shapes(self.card) if captures else SMALL_SHAPES
        for num_images, size_hw in shapes:
            self._steps.capture(num_images, size_hw, self._maps.fields(outputs))
            grey = np.full((*size_hw, 3), 128, np.uint8)
            box = (0.0, 0.0, float(size_hw[1]), float(size_hw[0]))
            for query in (Query(outputs), Query(outputs, boxes_xyxy=(box,), class_ids=(0,))):
                self.predict_batch([Sample(grey, size_hw, query)] * num_images)

    def free_graphs(self) -> None:
        """Give back the device memory of captured graphs; they are captured anew when it pays."""
        self._steps.free_graphs()

    @torch.inference_mode()
    def predict_batch(self, samples: Sequence[Sample]) -> list[Prediction | ServiceError]:
        """What is in each image, or why there was no room for it; all have one padded size.

        An answer is as if it came alone.
        """
        clock = StageClock(self._device)
        batch = self._steps.begin(samples)
        clock.mark("preprocess")
        found = batch.find_boxes()
        clock.mark("network")
        refused = _refused(samples, found)
        groups = list(self._groups(samples, found, refused))
        has_boxes = any(one.scores for painted in groups for one in painted.values())
        fused = batch.fuse() if has_boxes else []
        maps_of: dict[int, list[dict[str, Map]]] = {}
        for painted in groups:
            maps = self._paint(fused, samples, painted, clock)
            asked = [(samples[index], one.regions) for index, one in painted.items()]
            textures = list(gather_textures(asked, maps))
            reader = MapReader(maps.to_host(), self._confidence_names, textures)
            for index, one in painted.items():
                maps_of[index] = reader.read(one.regions, samples[index].query)
            clock.mark("postprocess")
        stage_seconds = clock.seconds()
        predictions: list[Prediction | ServiceError] = []
        for index, (sample, one) in enumerate(zip(samples, found, strict=True)):
            if index in refused:
                predictions.append(refused[index])
                continue
            instance_maps = maps_of.get(index, [{} for _ in one.scores])
            instances = tuple(
                Instance(score, class_id, box, region_of(box), self._mesh(sample, class_id), maps_)
                for score, class_id, box, maps_ in zip(
                    one.scores, one.class_ids, one.boxes_xyxy, instance_maps, strict=True
                )
            )
            predictions.append(Prediction(sample.image_size_hw, instances, stage_seconds))
        return predictions

    def _groups(
        self, samples: Sequence[Sample], found: Sequence[Found], refused: Mapping[int, ServiceError]
    ) -> Iterator[dict[int, Found]]:
        """The images to be painted, those together whose maps share a piece of memory."""
        group: dict[int, Found] = {}
        for index, one in enumerate(found):
            if index in refused or not samples[index].query.outputs:
                continue
            layout = self._layout(samples, {**group, index: one})
            if group and num_bytes(layout) > MAX_SHARED_BYTES:
                yield group
                group = {}
            group[index] = one
        if group:
            yield group

    def _layout(self, samples: Sequence[Sample], painted: Mapping[int, Found]) -> MapLayout:
        """The maps of these images in one piece of memory."""
        regions = _regions(painted)
        return self._maps.layout(_outputs(samples, painted), num_pixels(regions), len(regions))

    def _paint(
        self,
        fused: list[Tensor],
        samples: Sequence[Sample],
        painted: Mapping[int, Found],
        clock: StageClock,
    ) -> MapBuffer:
        """The maps of the images to be painted, chunk after chunk of their boxes."""
        maps = MapBuffer(self._layout(samples, painted), self._device)
        if not (regions := _regions(painted)):
            return maps
        meshes = [
            self._mesh(samples[index], class_id)
            for index, one in painted.items()
            for class_id in one.class_ids
        ]
        rois_R5 = as_rois({index: one.network_boxes_B4 for index, one in painted.items()})
        rois_R5 = to_device(rois_R5, self._device)
        fields = self._maps.fields(_outputs(samples, painted))
        first_pixel = 0
        max_chunk = self._traits.max_chunk
        for first in range(0, len(regions), max_chunk):
            chunk = slice(first, first + max_chunk)
            raw = self._steps.describe(fused, rois_R5[chunk], fields)
            clock.mark("network")
            part = Chunk(
                regions[chunk],
                meshes[chunk],
                first_instance=first,
                first_pixel=first_pixel,
                max_tile_pixels=self._traits.max_tile_pixels,
            )
            self._maps.paint(raw, part, maps)
            first_pixel += num_pixels(regions[chunk])
            clock.mark("postprocess")
        return maps

    def _mesh(self, sample: Sample, class_id: int | None) -> str | None:
        """The mesh that an instance is matched against; None for charts."""
        if class_id is None or sample.query.mesh is not None:
            return sample.query.mesh
        return self.card.architecture.class_to_mesh.get(class_id)


def _outputs(samples: Sequence[Sample], painted: Mapping[int, Found]) -> frozenset[AnyMap]:
    return frozenset[AnyMap]().union(*(samples[index].query.outputs for index in painted))


def _regions(painted: Mapping[int, Found]) -> list[RegionXYWH]:
    return [region for one in painted.values() for region in one.regions]


def _refused(samples: Sequence[Sample], found: Sequence[Found]) -> dict[int, ServiceError]:
    """The images whose answers have no room, by their index, and why."""
    refused = {}
    for index, (sample, one) in enumerate(zip(samples, found, strict=True)):
        if sample.reserve is not None:
            try:
                sample.reserve(one.regions)
            except ServiceError as error:
                refused[index] = error
    return refused


def _common_shapes(card: ModelCard) -> list[tuple[int, SizeHW]]:
    """Batches of pictures of 3:4 and 4:3 at the size that the model was evaluated at."""
    short = -(-card.short_side // 32) * 32
    long = -(-min(card.short_side * 4 // 3, card.long_side) // 32) * 32
    return [(count, size) for size in ((short, long), (long, short)) for count in COMMON_BATCHES]

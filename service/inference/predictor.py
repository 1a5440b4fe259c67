"""Images in, predictions out, on one device.

Shape letters: R boxes of all images of a batch.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from model_store.catalogue import ModelCard
from service.datatypes import Instance, Output, Prediction, Sample, region_of
from service.errors import AnswerTooLarge
from service.inference.chart_maps import ChartMaps, confidence_names
from service.inference.detection import Found, find_boxes
from service.inference.embedding_maps import EmbeddingMaps
from service.inference.instances import MapReader
from service.inference.map_buffer import Chunk, MapBuffer
from service.inference.preprocess import stack_samples
from service.inference.regions import num_pixels
from service.inference.stage_clock import StageClock
from service.inference.texture_maps import gather_textures
from service.network.folding import fold_batch_norms
from service.network.rcnn import DensePoseRCNN, as_rois

# Boxes that the DensePose head sees at once: its outputs and their rearrangement stay under 250 MB.
MAX_CHUNK = 16
# Pixels painted at once. On the CPU a tile fits the caches; on CUDA it is large enough to be busy.
MAX_TILE_PIXELS = {"cpu": 2**15, "cuda": 2**17}
ANSWER_TOO_LARGE = (
    "The maps of the instances found have too many samples for one answer: "
    "ask for fewer outputs, a higher min_score or fewer max_instances."
)


class Predictor:
    """One model, resident on one device. One thread at a time."""

    def __init__(
        self, network: DensePoseRCNN, card: ModelCard, device: torch.device, dtype: torch.dtype
    ) -> None:
        """Takes over a network with float32 weights; convolutions will compute in `dtype`."""
        self.card = card
        self._device = device
        self._dtype = dtype
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
        for parameter in network.parameters():
            parameter.data = parameter.data.to(dtype)
        # A pixel's channels side by side: what convolutions compute on, and tables are made of.
        self._network = network.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def predict_batch(self, samples: Sequence[Sample]) -> list[Prediction | AnswerTooLarge]:
        """What is in each image; all have one padded size. An answer is as if it came alone."""
        clock = StageClock(self._device)
        images_N3HW = stack_samples(samples, self._device, self._dtype)
        clock.mark("preprocess")
        pyramid = self._network.extract(images_N3HW)
        found = find_boxes(self._network, pyramid, samples)
        clock.mark("network")
        painted = {
            index: one
            for index, (sample, one) in enumerate(zip(samples, found, strict=True))
            if sample.query.outputs and num_pixels(one.regions) <= sample.query.max_region_pixels
        }
        maps = self._paint(pyramid, samples, painted, clock)
        asked = [(samples[index], one.regions) for index, one in painted.items()]
        textures = list(gather_textures(asked, maps))
        arrays = maps.to_host()
        clock.mark("postprocess")
        stage_seconds = clock.seconds()
        reader = MapReader(arrays, self._confidence_names, textures)
        predictions: list[Prediction | AnswerTooLarge] = []
        for index, (sample, one) in enumerate(zip(samples, found, strict=True)):
            if index not in painted and sample.query.outputs:
                predictions.append(AnswerTooLarge(ANSWER_TOO_LARGE))
                continue
            instance_maps = (
                reader.read(one.regions, sample.query)
                if index in painted
                else [{} for _ in one.scores]
            )
            instances = tuple(
                Instance(score, class_id, box, region_of(box), self._mesh(sample, class_id), maps_)
                for score, class_id, box, maps_ in zip(
                    one.scores, one.class_ids, one.boxes_xyxy, instance_maps, strict=True
                )
            )
            predictions.append(Prediction(sample.image_size_hw, instances, stage_seconds))
        return predictions

    def _paint(
        self,
        pyramid: list[Tensor],
        samples: Sequence[Sample],
        painted: Mapping[int, Found],
        clock: StageClock,
    ) -> MapBuffer:
        """The maps of the images to be painted, chunk after chunk of their boxes."""
        outputs = frozenset[Output]().union(*(samples[index].query.outputs for index in painted))
        regions = [region for one in painted.values() for region in one.regions]
        layout = self._maps.layout(outputs, num_pixels(regions), len(regions))
        maps = MapBuffer(layout, self._device)
        if not regions:
            return maps
        meshes = [
            self._mesh(samples[index], class_id)
            for index, one in painted.items()
            for class_id in one.class_ids
        ]
        rois_R5 = as_rois({index: one.network_boxes_B4 for index, one in painted.items()})
        fields = self._maps.fields(outputs)
        fused = self._network.fuse(pyramid)
        first_pixel = 0
        for first in range(0, len(regions), MAX_CHUNK):
            chunk = slice(first, first + MAX_CHUNK)
            raw = self._network.describe(fused, rois_R5[chunk], fields)
            clock.mark("network")
            part = Chunk(
                regions[chunk],
                meshes[chunk],
                first_instance=first,
                first_pixel=first_pixel,
                max_tile_pixels=MAX_TILE_PIXELS[self._device.type],
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

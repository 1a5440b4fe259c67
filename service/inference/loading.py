"""From a checkpoint's arrays to a predictor on the device."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from model_store.catalogue import Architecture, ModelCard
from model_store.checkpoint import check_configuration, select_parameters
from service.inference.graphs import graph_capture
from service.inference.predictor import Predictor
from service.inference.steps import PIXEL_MEAN_BGR
from service.network.faster_rcnn import ANCHOR_SIDES, cell_anchors
from service.network.rcnn import DensePoseRCNN


def parameter_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """The names and shapes of all arrays that a checkpoint of this architecture has."""
    return _empty_network(architecture)[1]


def served_configuration() -> dict[str, NDArray[np.float32]]:
    """What is no parameter, and the same for every model, under detectron2's names for it."""
    anchors = {
        f"proposal_generator.anchor_generator.cell_anchors.{level}": cell_anchors(side).numpy()
        for level, side in enumerate(ANCHOR_SIDES)
    }
    mean = np.array(PIXEL_MEAN_BGR, np.float32)
    return {"pixel_mean": mean, "pixel_std": np.ones_like(mean)} | anchors


def build_predictor(
    card: ModelCard,
    arrays: Mapping[str, NDArray[np.float32]],
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Predictor, tuple[str, ...]]:
    """The model, resident on the device, and the names of the arrays that it has no use for.

    Raises:
        CheckpointRejected: arrays are missing, or of another shape, or it is said in the checkpoint
            that it was trained for something else.
    """
    check_configuration(arrays, served_configuration())
    network, shapes = _empty_network(card.architecture)
    used, unused = select_parameters(arrays, shapes)
    state = {name: torch.from_numpy(array) for name, array in used.items()}
    network.load_state_dict(state, assign=True)
    return Predictor(network, card, device, dtype, graph_capture(device)), unused


def _empty_network(architecture: Architecture) -> tuple[DensePoseRCNN, dict[str, tuple[int, ...]]]:
    """A network without weights, and the shapes of those that it needs."""
    with torch.device("meta"):
        network = DensePoseRCNN(architecture)
    return network, {name: tuple(array.shape) for name, array in network.state_dict().items()}

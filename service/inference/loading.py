"""From a checkpoint's arrays to a predictor on the device."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from model_store.catalogue import Architecture, ModelCard
from model_store.checkpoint import check_configuration, select_parameters
from service.errors import DeviceUnavailable
from service.inference.predictor import Predictor
from service.inference.preprocess import PIXEL_MEAN_BGR
from service.inference.recorder import recorder_for
from service.network.faster_rcnn import ANCHOR_SIDES, cell_anchors
from service.network.rcnn import DensePoseRCNN

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def find_device(name: str) -> torch.device:
    """The device of this name, its float32 without TF32; `auto` is CUDA where there is one.

    Half-precision products are added up in float32, and algorithms are not measured for every new
    shape of a picture.

    Raises:
        DeviceUnavailable: there is no such device here.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cudnn.benchmark = False
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise DeviceUnavailable(f"device {name!r} cannot be used: {reason}") from error
    return device


def parameter_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """The names and shapes of all arrays that a checkpoint of this architecture has."""
    with torch.device("meta"):
        network = DensePoseRCNN(architecture)
    return {name: tuple(array.shape) for name, array in network.state_dict().items()}


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
    with torch.device("meta"):
        network = DensePoseRCNN(card.architecture)
    shapes = {name: tuple(array.shape) for name, array in network.state_dict().items()}
    used, unused = select_parameters(arrays, shapes)
    state = {name: torch.from_numpy(array) for name, array in used.items()}
    network.load_state_dict(state, assign=True)
    return Predictor(network, card, device, dtype, recorder_for(device)), unused

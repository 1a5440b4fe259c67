from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

from model_store.catalogue import load_catalogue
from model_store.checkpoint import read_checkpoint
from service.datatypes import Image, Query, Sample
from service.imaging.pictures import resize_image
from service.inference.loading import build_predictor
from service.inference.predictor import Predictor

PICTURES = Path(__file__).parents[2] / "parity" / "data" / "demo"


CPU = torch.device("cpu")


def load_demo(dtype: torch.dtype, device: torch.device = CPU) -> Predictor:
    card = load_catalogue()["demo"]
    with resources.as_file(resources.files("model_store") / "demo.pkl") as path:
        arrays = read_checkpoint(path)
    return build_predictor(card, arrays, device, dtype)[0]


@pytest.fixture(scope="session")
def demo() -> Predictor:
    return load_demo(torch.float32)


@pytest.fixture(scope="session")
def pictures() -> dict[str, Image]:
    """Four rendered pictures with 1, 1, 2 and 3 figures."""
    return {
        path.stem: Image(
            np.ascontiguousarray(np.asarray(PillowImage.open(path).convert("RGB"))[:, :, ::-1])
        )
        for path in sorted(PICTURES.glob("*fig.png"))
    }


def mirrored(image: Image) -> Image:
    return Image(np.ascontiguousarray(image.pixels_HW3[:, ::-1]))


def as_sample(image: Image, query: Query, short_side: int = 320, long_side: int = 533) -> Sample:
    pixels = resize_image(image, short_side=short_side, long_side=long_side)
    return Sample(pixels, image.size_hw, query)

"""The pictures that detectron2's visualizers draw, pixel by pixel."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
import pytest
import torch

from load_tests.stand_in_weights import DATA, PROMPTED
from service.datatypes import Image, Instance, Map, Output, Prediction
from service.output.drawing import Scenery, draw
from service.output.palettes import Palette
from service.output.presets import PRESETS, Style
from tests.parity.conftest import Worst
from tests.parity.test_detectron2 import CARDS, read_sample, stand_in_predictor

CARD = CARDS["R_50_FPN_s1x"]
PREFIXES = {"figures_2": "", PROMPTED: "prompted_"}
# Of the thousands on bodies: where U or V is ours, its last bit may put it into the next step.
MAX_DIFFERENT_PIXELS = 2


@dataclass(frozen=True)
class Scene:
    """The instances of a picture, and what detectron2 drew of its own."""

    prefix: str
    prediction: Prediction
    photo: Image

    def reference(self, name: str) -> np.ndarray:
        return read_rgb(f"{self.prefix}{name}.png")

    def draw(self, name: str, **scenery: np.ndarray) -> np.ndarray:
        preset = PRESETS[name]
        style = Style(
            preset,
            palette=preset.palette or Palette.PARULA,
            alpha=1.0 if preset.alpha is None else preset.alpha,
            background=preset.background or "black",
        )
        return draw(style, self.prediction, Scenery(self.photo, **scenery))


def read_rgb(name: str) -> np.ndarray:
    pixels = cv2.imread(str(DATA / "renders" / name))
    assert pixels is not None
    return pixels[..., ::-1]


@pytest.fixture(scope="module", params=PREFIXES)
def scene(request: pytest.FixtureRequest, device: torch.device) -> Scene:
    picture = request.param
    reference = np.load(DATA / "outputs" / f"{CARD.id}.{picture}.npz")
    sample = read_sample(CARD, picture, reference)
    outputs = frozenset({Output.IUV, Output.UV, Output.LABELS})
    sample = replace(sample, query=replace(sample.query, outputs=outputs))
    (prediction,) = stand_in_predictor(CARD, picture, device).predict_batch([sample])
    assert isinstance(prediction, Prediction)
    instances = []
    for index, instance in enumerate(prediction.instances):
        recorded = reference.get(f"inst{index}_iuv")
        instances.append(instance if recorded is None else with_iuv(instance, recorded))
    photo = cv2.imread(str(DATA / "pictures" / "figures_2.png"))
    assert photo is not None
    return Scene(PREFIXES[picture], replace(prediction, instances=tuple(instances)), Image(photo))


def with_iuv(instance: Instance, iuv_3hw: np.ndarray) -> Instance:
    """The instance with detectron2's own I, U and V."""
    samples = np.ascontiguousarray(iuv_3hw.transpose(1, 2, 0))
    return replace(instance, maps={**instance.maps, "iuv": Map(samples)})


@pytest.mark.parametrize("name", ["segm", "viton", "magicanimate", "boxes"])
def test_a_render_is_detectron2_s_drawing_to_the_pixel(scene: Scene, name: str) -> None:
    np.testing.assert_array_equal(scene.draw(name), scene.reference(name))


@pytest.mark.parametrize("name", ["u", "v"])
def test_u_and_v_are_detectron2_s_drawing_to_the_pixel(
    scene: Scene, name: str, worst: Worst
) -> None:
    different = count_different(scene.draw(name), scene.reference(name))
    # All three given boxes are recorded, and three of the eight found ones.
    allowed = 0 if scene.prefix else MAX_DIFFERENT_PIXELS
    assert worst.at_most("pixels of u and v that differ", different) <= allowed


def test_the_atlas_is_on_the_body_as_detectron2_draws_it(scene: Scene, worst: Worst) -> None:
    drawn = scene.draw("texture", atlas=read_rgb("atlas.png"))
    different = count_different(drawn, scene.reference("texture"))
    assert worst.at_most("pixels of texture that differ", different) <= MAX_DIFFERENT_PIXELS


def count_different(ours: np.ndarray, theirs: np.ndarray) -> int:
    assert ours.shape == theirs.shape
    return int((ours != theirs).any(axis=-1).sum())


def test_vertices_are_the_first_principal_components_of_their_embeddings(
    device: torch.device,
) -> None:
    card = CARDS["cse_R_50_FPN_s1x"]
    reference = np.load(DATA / "outputs" / f"{card.id}.{PROMPTED}.npz")
    sample = read_sample(card, PROMPTED, reference)
    outputs = frozenset({Output.VERTICES, Output.VERTEX_COLOURS, Output.MASK})
    sample = replace(sample, query=replace(sample.query, outputs=outputs))
    predictor = stand_in_predictor(card, PROMPTED, device)
    (prediction,) = predictor.predict_batch([sample])
    assert isinstance(prediction, Prediction)
    with torch.inference_mode():
        embeddings = predictor._network.roi_heads.embedder()["smpl_27554"].cpu().double().numpy()
    centred = embeddings - embeddings.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    components = centred @ axes[:3].T
    height, width = prediction.image_size_hw
    expected, vertices = np.zeros((height, width, 3)), np.zeros((height, width), int)
    for instance in prediction.instances:
        x, y, w, h = instance.region_xywh
        here = instance.maps["vertices"].samples.astype(int)
        vertices[y : y + h, x : x + w][here > 0] = here[here > 0]
    for channel, component in enumerate(components.T):
        # Each axis may point either way: the heaviest dimension tells which.
        axis = axes[channel]
        turned = component * np.sign(axis[np.abs(axis).argmax()])
        scaled = (turned - turned.min()) / (turned.max() - turned.min())
        expected[..., channel] = np.rint(255 * scaled)[vertices - 1]
    photo = Image(np.zeros((height, width, 3), np.uint8))
    drawn = draw(Style(PRESETS["vertices"], background="photo"), prediction, Scenery(photo))
    is_body = vertices > 0
    assert is_body.any()
    # What rounds at a half may go either way.
    assert np.abs(drawn - expected)[is_body].max() <= 1
    assert not drawn[~is_body].any()

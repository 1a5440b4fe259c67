import torch
from torch.nn import functional as F

from model_store.catalogue import Architecture
from service.network.densepose_head import ChartPredictor, Embedder, EmbeddingPredictor


def test_only_the_named_fields_are_given() -> None:
    predictor = ChartPredictor(8, Architecture(uv_confidence="indep_aniso", segm_confidence=True))
    fields = ("coarse_segm", "u", "kappa_v")
    with torch.inference_mode():
        raw = predictor(torch.randn(2, 8, 7, 7), fields)
    # And the confidence that weights the segmentation.
    assert set(raw.channels) == {*fields, "coarse_segm_confidence"}
    assert {field: tuple(raw[field].shape) for field in fields} == {
        "coarse_segm": (2, 2, 28, 28),
        "u": (2, 25, 28, 28),
        "kappa_v": (2, 25, 28, 28),
    }
    assert raw.values_RCSS.is_contiguous(memory_format=torch.channels_last)


def test_segmentation_is_weighted_by_its_confidence_also_where_that_is_not_asked_for() -> None:
    architecture = Architecture(segm_confidence=True)
    predictor = ChartPredictor(8, architecture)
    hidden = torch.randn(1, 8, 7, 7)

    def upsampled(layer: str) -> torch.Tensor:
        low = predictor.get_submodule(layer)(hidden)
        return F.interpolate(low, scale_factor=2, mode="bilinear")

    with torch.inference_mode():
        segmentation = predictor(hidden, ("fine_segm",))["fine_segm"]
        confidence = F.softplus(upsampled("fine_segm_confidence_lowres")) + 0.01
        torch.testing.assert_close(segmentation, upsampled("index_uv_lowres") * confidence)


def test_what_came_in_half_precision_is_computed_in_float32() -> None:
    predictor = EmbeddingPredictor(8, Architecture(predictor="cse"))
    hidden = torch.randn(1, 8, 7, 7).bfloat16()
    with torch.inference_mode():
        raw = predictor(hidden, ("coarse_segm", "embedding"))
        exact = predictor(hidden.float(), ("coarse_segm", "embedding"))
    assert raw.values_RCSS.dtype == torch.float32
    assert raw["embedding"].shape == (1, 16, 28, 28)
    assert torch.equal(raw.values_RCSS, exact.values_RCSS)


def test_vertex_embeddings_have_length_one_and_an_empty_one_is_no_division_by_zero() -> None:
    embedder = Embedder({"cat_3": 3, "dog_2": 2}, feature_dim=4, embed_size=5)
    with torch.no_grad():
        embedder.embedder_cat_3.features[:2] = torch.randn(2, 4)
        embedder.embedder_cat_3.embeddings.normal_()
        vertices = embedder()
    assert set(vertices) == {"cat_3", "dog_2"}
    lengths = vertices["cat_3"].norm(dim=1)
    torch.testing.assert_close(lengths, torch.tensor([1.0, 1.0, 0.0]))
    assert torch.equal(vertices["dog_2"], torch.zeros(2, 5))

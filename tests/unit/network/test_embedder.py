import torch

from service.network.embedder import Embedder


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

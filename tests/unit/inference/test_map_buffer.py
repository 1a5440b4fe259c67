import numpy as np
import torch

from service.inference.map_buffer import MapBuffer


def test_what_is_written_on_the_device_is_read_on_the_host() -> None:
    layout = {
        "labels": ((5,), torch.uint8),
        "vertices": ((3, 2), torch.uint16),
        "ranges": ((2, 1, 3), torch.float32),
        "embedding": ((1, 2), torch.float16),
        "nothing": ((0, 3), torch.uint8),
    }
    maps = MapBuffer(layout, torch.device("cpu"))
    maps["labels"][1:4] = torch.tensor([7, 8, 255]).to(torch.uint8)
    maps["labels"][[0, 4]] = torch.zeros(2, dtype=torch.uint8)
    maps["vertices"][:] = torch.tensor([[0, 1], [32768, 27554], [65535, 2]], dtype=torch.int32)
    maps["ranges"][:] = torch.arange(6.0).reshape(2, 1, 3)
    maps["embedding"][:] = torch.tensor([[0.5, -2.0]])
    arrays = maps.to_host()
    assert arrays["labels"].tolist() == [0, 7, 8, 255, 0]
    assert arrays["vertices"].tolist() == [[0, 1], [32768, 27554], [65535, 2]]
    assert arrays["vertices"].dtype == np.uint16
    assert arrays["ranges"].tolist() == [[[0.0, 1.0, 2.0]], [[3.0, 4.0, 5.0]]]
    assert arrays["embedding"].tolist() == [[0.5, -2.0]]
    assert arrays["nothing"].shape == (0, 3)
    assert "labels" in maps
    assert "iuv" not in maps

"""The service at work: a real server, the model `demo`, a picture, and what comes back."""

import base64
import json
from pathlib import Path
from typing import Any

import cv2
import httpx2
import numpy as np
from numpy.typing import NDArray

from load_tests.server import running_server

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "tests" / "parity" / "data" / "demo" / "test4_3fig.png"
FOLDER = ROOT / "demo"


def main() -> None:
    """Ask a server about the picture, and write the answer into `demo/`."""
    FOLDER.mkdir(exist_ok=True)
    photo = PICTURE.read_bytes()
    with running_server({"DEFAULT_MODEL": "demo"}, FOLDER / "server.log") as server:
        response = httpx2.post(
            f"{server.url}/v1/densepose", content=photo, headers={"Content-Type": "image/png"}
        )
        response.raise_for_status()
        picture = httpx2.post(
            f"{server.url}/v1/densepose",
            content=photo,
            headers={"Content-Type": "image/png", "Accept": "image/png"},
        )
        picture.raise_for_status()
    answer = response.json()
    (FOLDER / "answer.json").write_text(json.dumps(answer, indent=2))
    (FOLDER / "iuv.png").write_bytes(picture.content)
    cv2.imwrite(str(FOLDER / "overlay.png"), overlay(photo, picture.content))
    print_table(answer, response.headers["Server-Timing"])
    for name, what in (
        ("answer.json", "the answer: boxes, scores, a map per instance"),
        ("iuv.png", "the parts and their U and V, over the whole picture"),
        ("overlay.png", "the parts in colour over the picture"),
        ("server.log", "what the server logged"),
    ):
        print(f"  demo/{name:12} {what}")


def print_table(answer: dict[str, Any], timing: str) -> None:
    """One line per instance."""
    image = answer["image"]
    print(f"\n{PICTURE.name}, {image['width']} x {image['height']}, model {answer['model']}")
    print(f"{answer['notice']}\n")
    print(f"{'':>3} {'score':>6}  {'box x0, y0, x1, y1':28} {'body pixels':>11}  parts")
    for index, instance in enumerate(answer["instances"]):
        iuv = decode(base64.b64decode(instance["maps"]["iuv"]["data"]))
        labels = iuv[..., 2]  # of B, G, R
        box = ", ".join(f"{side:.1f}" for side in instance["box"])
        parts = len(np.unique(labels[labels > 0]))
        print(f"{index:>3} {instance['score']:>6.3f}  {box:28} {(labels > 0).sum():>11}  {parts}")
    print(f"\n{timing}\n")


def overlay(photo: bytes, iuv: bytes) -> NDArray[np.uint8]:
    """The parts in colour, at 0.7, over the photo."""
    pixels = decode(photo)
    labels = decode(iuv)[..., 2]
    coloured = cv2.applyColorMap((labels * (255 / 24)).astype(np.uint8), cv2.COLORMAP_PARULA)
    mixed = cv2.addWeighted(pixels, 0.3, coloured, 0.7, 0)
    return np.where(labels[..., None] > 0, mixed, pixels)


def decode(data: bytes) -> NDArray[np.uint8]:
    """The picture as uint8 [H, W, 3], B, G, R."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    return pixels.astype(np.uint8)


if __name__ == "__main__":
    main()

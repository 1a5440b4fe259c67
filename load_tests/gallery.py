"""The gallery in the README: what a real server draws of one picture, preset by preset."""

import tempfile
from pathlib import Path

import cv2
import httpx2
import numpy as np
from numpy.typing import NDArray

from load_tests.server import running_server
from service.output.palettes import Palette, label_colours

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "tests" / "parity" / "data" / "demo" / "test4_3fig.png"
GALLERY = Path(__file__).with_name("gallery.png")
COLUMNS = 6
WIDTH = 200
CAPTION_HEIGHT = 18
PART_SIDE = 32
# The demo model has charts; what needs a model with vertices is not shown.
KIND = "chart"
MIN_SCORE = 0.8
# Pictures of small numbers, which are all but black.
BRIGHTENED = {"labels": 10, "instances": 60, "leffa-dresscode": 10}


def main() -> None:
    """Ask for every picture that the model can give, and lay them side by side."""
    photo = PICTURE.read_bytes()
    height, width = decode(photo).shape[:2]
    size = (WIDTH, WIDTH * height // width)
    small = cv2.resize(decode(photo), size, interpolation=cv2.INTER_AREA)
    tiles = {"the photo": np.asarray(small, np.uint8)}
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server({"DEFAULT_MODEL": "demo"}, Path(folder) / "server.log") as server,
    ):
        renders = httpx2.get(f"{server.url}/v1/renders").json()["renders"]
        for render in renders:
            if KIND not in render["kinds"] or render["media_type"] != "image/png":
                continue
            files = {"image": photo}
            if render["name"] == "texture":
                files["atlas"] = encode(make_atlas())
            response = httpx2.post(
                f"{server.url}/v1/densepose",
                params={
                    "render": render["name"],
                    "size": f"{size[0]}x{size[1]}",
                    "min_score": MIN_SCORE,
                },
                files=files,
                headers={"Accept": "image/png"},
            )
            response.raise_for_status()
            name, factor = render["name"], BRIGHTENED.get(render["name"], 1)
            caption = name if factor == 1 else f"{name}, {factor} x"
            tiles[caption] = decode(response.content) * np.uint8(factor)
    GALLERY.write_bytes(encode(lay_out(tiles, size)))
    print(f"{GALLERY.relative_to(ROOT)}: {len(tiles)} tiles, {GALLERY.stat().st_size} bytes")


def lay_out(tiles: dict[str, NDArray[np.uint8]], size_wh: tuple[int, int]) -> NDArray[np.uint8]:
    """The tiles row by row, each over its name, on white."""
    width, height = size_wh
    num_rows = -(-len(tiles) // COLUMNS)
    shape = (num_rows * (height + CAPTION_HEIGHT), COLUMNS * width, 3)
    gallery = np.full(shape, 255, np.uint8)
    for index, (name, tile) in enumerate(tiles.items()):
        top = index // COLUMNS * (height + CAPTION_HEIGHT)
        left = index % COLUMNS * width
        gallery[top : top + height, left : left + width] = tile
        place = (left + 4, top + height + CAPTION_HEIGHT - 5)
        cv2.putText(gallery, name, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return gallery


def make_atlas() -> NDArray[np.uint8]:
    """Each part in its colour, with squares that show where U and V run."""
    atlas = np.zeros((6 * PART_SIDE, 4 * PART_SIDE, 3), np.uint8)
    rows, columns = np.indices((PART_SIDE, PART_SIDE)) // (PART_SIDE // 4)
    shade = np.where((rows + columns) % 2, 1.0, 0.5)[..., None]
    for index, colour in enumerate(label_colours(Palette.TURBO)[1:, ::-1]):
        left, top = index // 6 * PART_SIDE, index % 6 * PART_SIDE
        atlas[top : top + PART_SIDE, left : left + PART_SIDE] = colour * shade + 1
    return atlas


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG file of B, G, R."""
    _, file = cv2.imencode(".png", pixels, (cv2.IMWRITE_PNG_COMPRESSION, 9))
    return file.tobytes()


def decode(data: bytes) -> NDArray[np.uint8]:
    """The picture as uint8 [H, W, 3], B, G, R."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    return pixels.astype(np.uint8)


if __name__ == "__main__":
    main()

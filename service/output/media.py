"""The media types of answers and of the files in them."""

from collections.abc import Mapping

JSON = "application/json"
PNG = "image/png"
ZIP = "application/zip"
NPY = "application/x-npy"
NPZ = "application/x-npz"
# JSON too, but not this service's.
COCO = "application/vnd.coco+json"

SUFFIXES: Mapping[str, str] = {PNG: "png", NPY: "npy", NPZ: "npz", COCO: "json"}

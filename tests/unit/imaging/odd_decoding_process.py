"""The process that decodes, but for pictures that end in a word that tells it what to do wrong."""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from service.imaging import decoding_process
from service.imaging.pictures import open_pictures

ORDINARY_WRITTEN = decoding_process._written


def open_or_fail(image, atlas, *, max_pixels):
    word = bytes(image[-8:]).strip().decode(errors="replace")
    match word:
        case "compute":
            while True:
                pass
        case "sleep":
            Path(os.environ["TMPDIR"], str(os.getpid())).touch()
            time.sleep(600)
        case "die":
            os._exit(1)
        case "grow":
            np.ones(300 * 2**20, np.uint8)
        case "chat":
            os.write(sys.stderr.fileno(), b"x" * 10_000_000)
            os.write(sys.stdout.fileno(), b"x" * 10_000_000)
        case _ if word.startswith("say"):
            decoding_process._written = lambda pixels, file: say(int(word[3:]), pixels, file)
    return open_pictures(image, atlas, max_pixels=max_pixels)


LIES = (
    lambda reply, file: {},
    lambda reply, file: [],
    lambda reply, file: None,
    lambda reply, file: {"error": "SystemExit", "message": "x"},
    lambda reply, file: reply | {"shapes": []},
    lambda reply, file: reply | {"shapes": [[10**6, 10**6, 3], None, None]},
    lambda reply, file: reply | {"shapes": [None, None, None]},
    lambda reply, file: reply | {"image_size_hw": [1000, 10**6]},
    lambda reply, file: reply | {"image_size_hw": [-4, -4]},
    lambda reply, file: reply | {"image_size_hw": "ab"},
    lambda reply, file: reply | {"shapes": [*reply["shapes"][:2], [10**5, 10**5, 4]]},
    lambda reply, file: reply | {"decode_s": "soon"},
    lambda reply, file: os.ftruncate(file, 3) or reply,
    lambda reply, file: reply | {"more": "x" * 100_000},
    lambda reply, file: json.loads("[" * 500 + "]" * 500),
)


def say(number, pixels, file):
    return LIES[number](ORDINARY_WRITTEN(pixels, file), file)


if __name__ == "__main__":
    decoding_process.open_pictures = open_or_fail
    decoding_process.MAX_CPU_S = 1.0
    decoding_process.main()

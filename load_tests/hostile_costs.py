"""Requests of a few kilobytes that mean to cost far more: pictures to decode, answers to write."""

import io
import random
from collections.abc import Callable, Sequence
from functools import cache

from PIL import Image

from load_tests.costly_files import FORMS, MAX_BYTES, Choices
from load_tests.hostile_inputs import request

# As large as is taken by default: 40 million pixels of one bit, 4.9 KB.
WIDTH, HEIGHT = 8000, 5000
# Files of each form.
NUM_EACH = 12
WHOLE, HALF = f"[0,0,{WIDTH},{HEIGHT}]", f"[0,0,{WIDTH},{HEIGHT // 2}]"
OUTPUTS = ("uv", "iuv", "iuv16", "labels,mask", "texture", "iuv,iuv16,uv,labels,coarse,mask")
RENDERS = ("iuv", "viton&background=transparent", "segm", "leffa-pose", "coco-json", "dump-npz")
TYPES = ("application/json", "application/zip", "application/x-npz", "image/png", "*/*")


@cache
def _picture() -> bytes:
    file = io.BytesIO()
    Image.new("1", (WIDTH, HEIGHT)).save(file, "PNG")
    return file.getvalue()


@cache
def costly_files() -> Sequence[bytes]:
    """Pictures of every form: to make one takes as long as to decode it, so they are made ahead."""
    chance = random.Random("costly")
    return [make(Choices(chance))[:MAX_BYTES] for make in FORMS.values() for _ in range(NUM_EACH)]


def costly_picture(chance: random.Random) -> bytes:
    """A request about a picture whose header is valid and extreme."""
    data = chance.choice(costly_files())
    query = chance.choice(("outputs=none", "boxes=[]", "outputs=labels&max_instances=1"))
    return request(data, query=query)


def costly_answer(chance: random.Random) -> bytes:
    """A request whose answer has as much in it as can be asked for with so few bytes."""
    boxes = ",".join(chance.choices((WHOLE, HALF), k=chance.choice((1, 1, 2, 3, 20))))
    asked = [f"boxes=[{boxes}]", f"layout={chance.choice(('instance', 'image'))}"]
    if chance.random() < 1 / 3:
        asked.append(f"render={chance.choice(RENDERS)}")
    else:
        asked.append(f"outputs={chance.choice(OUTPUTS)}")
    headers = [f"Accept: {chance.choice(TYPES)}"]
    if chance.random() < 0.5:
        headers.append("Accept-Encoding: gzip")
    return request(_picture(), query="&".join(asked), headers=tuple(headers))


def costly_request(chance: random.Random) -> bytes:
    """One or the other."""
    kinds: Sequence[Callable[[random.Random], bytes]] = (costly_picture, costly_answer)
    return chance.choice(kinds)(chance)


def unread_request() -> bytes:
    """A request for as large an answer as is given, by a client that is not going to read it."""
    return request(_picture(), query=f"boxes=[{HALF}]&outputs=uv")

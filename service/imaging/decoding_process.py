"""What decodes a stranger's pictures in processes that can be ended: this runs in them.

A template process imports what decoders need, once, and makes a copy of itself for each request
about costly pictures. The copy reads what is wanted from its socket, and leaves the pixels in a
file in memory that it was given. It ends by itself at a bound on its CPU time, has a bound on its
memory, and is ended when the other end of its socket is closed: by whoever does not want the
pixels any more, or with the server. What decoders print goes nowhere.

It is a stranger's as soon as it has decoded something: the server believes nothing that it says.
"""

import contextlib
import fcntl
import gc
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from service.errors import ServiceError, UndecodableImage
from service.imaging.decode import TOO_MUCH_MEMORY
from service.imaging.pictures import Pixels, Wanted, open_pictures

# Nothing that is known takes more than 2 s of a machine that has nothing else to do; where cores
# share their units with busy ones, the same work takes up to one and a half times as long.
MAX_CPU_S = 3.0
# Of pictures of up to 16 million pixels, and of larger ones.
MAX_BYTES, MAX_LARGE_BYTES = 256 * 2**20, 512 * 2**20
# How many bytes of JSON follow, of the image and of the atlas; -1: there is none.
HEAD = struct.Struct("<iii")
# What a process says when it begins, before it reads anything.
BEGUN = b"\0"
# The kind of process that is asked for.
USUAL, LARGE = b"u", b"l"


def main() -> None:
    """Be the template: one byte and two descriptors ask for a copy, the end of the socket for all.

    The descriptors are of a socket and of a file for the pixels.
    """
    control = socket.socket(fileno=int(sys.argv[1]))
    cv2.setNumThreads(1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    gc.freeze()
    while True:
        kind, descriptors, _, _ = socket.recv_fds(control, 1, 2)
        if not kind:
            return
        if os.fork() == 0:
            control.close()
            try:
                _decode(kind, socket.socket(fileno=descriptors[0]), descriptors[1])
            finally:
                os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)


def _decode(kind: bytes, connection: socket.socket, file: int) -> None:
    """Be a copy."""
    _bound(MAX_LARGE_BYTES if kind == LARGE else MAX_BYTES)
    connection.sendall(BEGUN)
    order_bytes, image_bytes, atlas_bytes = HEAD.unpack(_receive(connection, HEAD.size))
    wanted = Wanted(**json.loads(_receive(connection, order_bytes)))
    image = _receive(connection, image_bytes)
    atlas = None if atlas_bytes < 0 else _receive(connection, atlas_bytes)
    _end_with(connection)
    try:
        opened = open_pictures(image, atlas, max_pixels=wanted.max_pixels)
        reply = _written(opened.read(wanted), file)
    except ServiceError as error:
        reply = {"error": type(error).__name__, "message": str(error)}
    except MemoryError:
        reply = {"error": UndecodableImage.__name__, "message": TOO_MUCH_MEMORY}
    connection.sendall(json.dumps(reply).encode() + b"\n")


def _bound(num_bytes: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.dup2(nowhere, sys.stderr.fileno())
    # Where the system does not tell how much there is already, there is no bound.
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + num_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    # SIGPROF ends the process: of a signal that is handled in Python no decoder would hear.
    signal.setitimer(signal.ITIMER_PROF, MAX_CPU_S)


def _end_with(connection: socket.socket) -> None:
    """Have SIGIO end the process when the other end of the connection is closed."""
    fcntl.fcntl(connection, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(connection, fcntl.F_GETFL)
    fcntl.fcntl(connection, fcntl.F_SETFL, flags | os.O_ASYNC)
    poll = select.poll()
    poll.register(connection, 0)
    if poll.poll(0):
        # It was closed before.
        os._exit(0)


def _receive(connection: socket.socket, num_bytes: int) -> bytearray:
    data = bytearray(num_bytes)
    if connection.recv_into(data, flags=socket.MSG_WAITALL) < num_bytes:
        os._exit(0)
    return data


def _written(pixels: Pixels, file: int) -> dict[str, Any]:
    """What the pixels are, which stand in the file then, one array behind the other."""
    photo = None if pixels.photo is None else pixels.photo.pixels_HW3
    arrays = (pixels.resized_hw3, photo, pixels.atlas)
    with open(file, "wb", closefd=False) as out:
        for array in arrays:
            if array is not None:
                out.write(np.ascontiguousarray(array).data)
    return {
        "shapes": [None if array is None else array.shape for array in arrays],
        "image_size_hw": pixels.image_size_hw,
        "decode_s": pixels.decode_s,
        "resize_s": pixels.resize_s,
    }


if __name__ == "__main__":
    main()

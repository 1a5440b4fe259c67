"""Which files are meant, in which order, and where each belongs below the folder it came from."""

import glob
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# What is taken of a folder, without regard to case; a file that is named is taken whatever it is.
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff")
)
STANDARD_INPUT = "-"


@dataclass(frozen=True, slots=True)
class Source:
    """A file, and its place below the folder it came from; or why there is none."""

    path: str
    place: str
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """An image, and the place below its folder."""

    path: str
    place: str


class FileRejected(Exception):
    """A file that cannot be an image; the message says why."""


def find_sources(
    paths: Sequence[str], listed: bytes, *, root: str | None, out: str
) -> Iterator[Source]:
    """The sources, path after path, each folder's sorted by its names.

    A path is a file, a folder with all below it, a pattern with *, ? or **, or -, which stands for
    the names in `listed`. Below `out` nothing is looked for.

    Places are relative to `root`, else to the folder that was named, to the part of a pattern
    before its first wildcard, to a named file's own folder, or for listed names to the current one.
    """
    for path in paths:
        if path == STANDARD_INPUT:
            for name in split_names(listed):
                yield _place(name, root or os.curdir)
        elif os.path.lexists(path) or not glob.has_magic(path):
            yield from _find(path, root, out)
        else:
            yield from _match(path, root, out)


def split_names(listed: bytes) -> Iterator[str]:
    r"""The names of a list: each ended by a NUL if there is one in it, else one in each line."""
    separator = b"\0" if b"\0" in listed else b"\n"
    for name in listed.split(separator):
        if name.rstrip(b"\r") if separator == b"\n" else name:
            yield os.fsdecode(name.removesuffix(b"\r") if separator == b"\n" else name)


def read_source(path: str, *, max_bytes: int) -> bytes:
    """The bytes of a file.

    Raises:
        FileRejected: it cannot be read, is too large, or is not a file at all.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise FileRejected("it is not a file, but something else")
            if found.st_size > max_bytes:
                raise FileRejected(
                    f"it has {found.st_size} bytes; DENSEPOSE_MAX_BODY_BYTES is {max_bytes}"
                )
            # As many as there are: memory is taken for as many as may come.
            data = file.read(found.st_size)
    except OSError as error:
        raise FileRejected(f"it cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise FileRejected("no file can have this name") from error
    if not data:
        raise FileRejected("it is empty")
    return data


def _open_at_once(path: str, flags: int) -> int:
    # A pipe would keep us waiting for somebody to write to it.
    return os.open(path, flags | os.O_NONBLOCK)


def _find(path: str, root: str | None, out: str) -> Iterator[Source]:
    if os.path.isdir(path):
        yield from _walk(path, root or path, out, ())
    else:
        yield _place(path, root or os.path.dirname(path) or os.curdir)


def _match(pattern: str, root: str | None, out: str) -> Iterator[Source]:
    parts = Path(pattern).parts
    num_fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    fixed = Path(*parts[:num_fixed])
    # Links to folders are not followed by **: they may lead round in circles.
    matches = sorted(map(str, fixed.glob(os.path.join(*parts[num_fixed:]))), key=_order)
    shown = [path for path in matches if not (_is_hidden(path, fixed) or _is_below(path, out))]
    if not shown:
        yield Source(pattern, "", "nothing matches it")
    walked = None
    for path in shown:
        if walked is not None and _is_below(path, walked):
            continue
        if os.path.isdir(path):
            walked = path
        yield from _find(path, root or str(fixed), out)


def _walk(folder: str, root: str, out: str, above: tuple[tuple[int, int], ...]) -> Iterator[Source]:
    """What is below a folder; `above` are the identities of the folders that it lies in."""
    try:
        found = os.stat(folder)
        entries = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        yield Source(folder, "", f"the folder cannot be read: {error.strerror}")
        return
    identity = (found.st_dev, found.st_ino)
    if identity in above:
        yield Source(folder, "", "it is a link to a folder that it lies in")
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if _is_folder(entry):
            if not _is_same(entry.path, out):
                yield from _walk(entry.path, root, out, (*above, identity))
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
            yield _place(entry.path, root)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link that leads round in circles.
        return False


def _place(path: str, root: str) -> Source:
    place = os.path.relpath(path, root)
    if "\0" in path:
        return Source(path, "", "no file can have this name")
    if place.split(os.sep, 1)[0] == os.pardir:
        return Source(path, "", f"it lies outside of {root}: name its folder with --root")
    return Source(path, place)


def _is_hidden(path: str, above: Path) -> bool:
    return any(part.startswith(".") for part in Path(path).relative_to(above).parts)


def _order(path: str) -> list[bytes]:
    return os.fsencode(path).split(os.fsencode(os.sep))


def _is_below(path: str, folder: str) -> bool:
    return os.path.abspath(path).startswith(os.path.join(os.path.abspath(folder), ""))


def _is_same(path: str, other: str) -> bool:
    return os.path.abspath(path) == os.path.abspath(other)

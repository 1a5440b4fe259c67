"""How long a checkpoint takes to load, and how much memory: from its pickle, and converted.

A checkpoint of the default model's size, pickled with protocol 4, is loaded in fresh processes
that have imported torch; its files are in the page cache.
"""

import argparse
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from model_store.catalogue import ModelCard, load_catalogue
from model_store.checkpoint import read_checkpoint
from model_store.store import ModelStore
from service.inference.loading import parameter_shapes

# Of random numbers: the digests are not the zoo's.
CARD = replace(load_catalogue()["R_50_FPN_s1x"], sha256=None, num_bytes=None, md5_prefix=None)
WAYS = ("pickle", "safetensors")
KIBIBYTE, MEGABYTE = 2**10, 10**6
FLOATS_PER_PAGE = 1024


def main() -> None:
    """Measure both ways in turn, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        num_bytes = write_checkpoint(folder, CARD)
        open_store(folder).load_arrays(CARD)
        runs = [{way: measure(way, folder) for way in WAYS} for _ in range(repeats)]
    print(f"{num_bytes / MEGABYTE:.0f} MB of weights, medians of {repeats} fresh processes each\n")
    print(f"{'':12} {'load, ms':>9} {'and touch, ms':>14} {'peak memory, of the weights':>28}")
    medians = {way: median_of([run[way] for run in runs]) for way in WAYS}
    for way, (load_s, touched_s, peak_bytes) in medians.items():
        share = peak_bytes / num_bytes
        print(f"{way:12} {load_s * 1e3:>9.1f} {touched_s * 1e3:>14.1f} {share:>28.2f}")
    slow, fast = (medians[way] for way in WAYS)
    print(
        f"\n{slow[0] / fast[0]:.0f} times faster; {slow[1] / fast[1]:.1f} with every page touched"
    )


def write_checkpoint(folder: Path, card: ModelCard) -> int:
    """Put the model's checkpoint into a store's folder; the bytes of its weights."""
    assert card.url is not None
    random = np.random.default_rng(0)
    arrays = {
        name: random.standard_normal(shape, np.float32)
        for name, shape in parameter_shapes(card.architecture).items()
    }
    path = folder / card.id / card.url.rpartition("/")[2]
    path.parent.mkdir()
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "random numbers"}, 4))
    return sum(array.nbytes for array in arrays.values())


def open_store(folder: Path) -> ModelStore:
    """The store with that one model."""
    return ModelStore(folder, {CARD.id: CARD})


def measure(way: str, folder: Path) -> tuple[float, ...]:
    """Seconds of the load, seconds until every page is there, growth of peak memory in bytes."""
    code = f"from load_tests.model_load import run; from pathlib import Path; run({way!r}, "
    command = [sys.executable, "-c", f"{code}Path({str(folder)!r}))"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return tuple(float(number) for number in output.split())


def run(way: str, folder: Path) -> None:
    """Load in this process, and print what `measure` returns."""
    before_bytes = peak_memory_bytes()
    start = time.perf_counter()
    arrays = load(way, folder)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    load_s = time.perf_counter() - start
    for tensor in tensors.values():
        tensor.reshape(-1)[::FLOATS_PER_PAGE].sum()
    touched_s = time.perf_counter() - start
    print(load_s, touched_s, peak_memory_bytes() - before_bytes)


def load(way: str, folder: Path) -> Mapping[str, NDArray[np.float32]]:
    """The checkpoint's arrays."""
    store = open_store(folder)
    if way == "pickle":
        (path,) = (folder / CARD.id).glob("*.pkl")
        return read_checkpoint(path)
    return store.load_arrays(CARD)


def peak_memory_bytes() -> int:
    """The most memory that this process has had, file pages that it has touched included."""
    # ru_maxrss would begin with the parent's.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * KIBIBYTE
    raise OSError("/proc/self/status has no VmHWM")


def median_of(runs: list[tuple[float, ...]]) -> tuple[float, ...]:
    """The median of each number."""
    return tuple(statistics.median(numbers) for numbers in zip(*runs, strict=True))


if __name__ == "__main__":
    main()

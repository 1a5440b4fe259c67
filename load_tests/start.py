"""How long starting takes: commands, servers until they are ready, and what that consists of.

    python -m load_tests.start [--repetitions 3]

Processes are fresh, files are in the page cache. The server of `R_50_FPN_s1x` has the parity tests'
stand-in for its weights in its store, and is ready when that model is loaded and warm.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from load_tests.filled_store import NAME, fill_store
from load_tests.server import running_server

DENSEPOSE = (sys.executable, "-c", "import sys; from service.cli import main; sys.exit(main())")
COMMANDS = (("--version",), ("models", "list"), ("models", "show", "demo"), ("no-such-command",))
# Each begins with what the one before it needs.
STEPS = {
    "import torch": "import torch",
    "and the service": "import service.app, service.server",
    "and load": """
from pathlib import Path
import torch
from load_tests.filled_store import NAME, open_store
from service.inference.loading import build_predictor
store = open_store(Path({folder!r}))
card = store.find(NAME)
predictor, _ = build_predictor(card, store.load_arrays(card), torch.device("cpu"), torch.float32)
""",
    "and describe once": """
import numpy as np
from service.datatypes import Output, Query, Sample
pixels = np.zeros((800, 1066, 3), np.uint8)
query = Query(frozenset({{Output.IUV}}), min_score=0.0, max_instances=3)
predictor.predict_batch([Sample(pixels, (800, 1066), query)])
""",
    "and once more": """
predictor.predict_batch([Sample(pixels, (800, 1066), query)])
""",
}


def main() -> None:
    """Print a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=3)
    repetitions = parser.parse_args().repetitions
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill_store(folder)
        for title, run in measured(folder):
            times_s = [run() for _ in range(repetitions)]
            median_s, least_s = statistics.median(times_s), min(times_s)
            print(f"{title:40} median {median_s:6.2f} s, least {least_s:6.2f} s", flush=True)


def measured(folder: Path) -> Iterator[tuple[str, Callable[[], float]]]:
    """What is measured, and the function that does it once."""
    for arguments in COMMANDS:
        title = " ".join(("densepose", *arguments))
        yield title, lambda arguments=arguments: run_once([*DENSEPOSE, *arguments])  # type: ignore[misc]
    code = ""
    for title, step in STEPS.items():
        code += step.format(folder=str(folder)) + "\n"
        yield title, lambda code=code: run_once([sys.executable, "-c", code])  # type: ignore[misc]
    for model in ("demo", NAME):
        yield f"until ready: {model}", lambda model=model: until_ready(model, folder)  # type: ignore[misc]


def run_once(command: list[str]) -> float:
    """The seconds of a process, whatever it thinks of its arguments."""
    begun_s = time.perf_counter()
    subprocess.run(command, check=False, capture_output=True)
    return time.perf_counter() - begun_s


def until_ready(model: str, folder: Path) -> float:
    """The seconds from a server's start until `/readyz` says yes."""
    settings = {"MODEL_STORE": str(folder), "DEFAULT_MODEL": model, "PRELOAD": model}
    begun_s = time.perf_counter()
    with running_server(settings, folder / "server.log"):
        return time.perf_counter() - begun_s


if __name__ == "__main__":
    main()

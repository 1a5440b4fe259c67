"""The package alone."""

import subprocess
import sys

ALONE = """
import sys
import service.client
ours = {name for name in sys.modules if name.partition(".")[0] in ("service", "model_store")}
strangers = {name for name in ours if not (name + ".").startswith("service.client.")} - {"service"}
heavy = {"torch", "torchvision", "fastapi", "starlette", "pydantic", "cv2", "PIL"}
heavy &= set(sys.modules)
print(sorted(strangers | heavy))
"""


def test_to_import_the_client_imports_nothing_else_of_ours_and_nothing_heavy():
    run = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"

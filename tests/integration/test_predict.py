"""`densepose predict`, as a process of its own, that is killed, interrupted and misused."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from load_tests.server import Server, running_server
from service.cli import main
from service.client import DensePose

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "tests" / "parity" / "data" / "demo"
BAD = ("002.jpg", "010.jpg", "018.jpg", "026.jpg", "039.jpg")
# Of the demo model, quick; of several instances, with records beside the pictures.
WISHES = ("--short-side", "128", "--min-score", "0.2", "--outputs", "labels,iuv")
# In batches of other companions, rounding may differ in the last bit.
SETTINGS = {"DEFAULT_MODEL": "demo", "MAX_BATCH": "1"}
PATIENCE_S = 240.0


@contextmanager
def started(*arguments: str, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command, which does not outlive the block."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DENSEPOSE_")}
    environment |= {f"DENSEPOSE_{name}": v for name, v in (SETTINGS | settings).items()}
    code = "import sys; from service.cli import main; sys.exit(main())"
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [sys.executable, "-c", code, "predict", *arguments]
    with subprocess.Popen(command, env=environment, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_results(process: subprocess.Popen[bytes], out: Path, count: int) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while len(list(out.glob("*/*.maps"))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end_s
        time.sleep(0.02)


def run(*arguments: str, listed: bytes = b"", **settings: str) -> tuple[int, str]:
    """The exit status, and what was said."""
    with started(*arguments, **settings) as process:
        _, said = process.communicate(listed, PATIENCE_S)
        return process.returncode, said.decode()


def figure(number: int, size: tuple[int, int] = (128, 112)) -> bytes:
    """A rendered figure or several, cut out differently for each number, as a JPEG."""
    files = sorted(FIGURES.glob("*fig.png"))
    with Image.open(files[number % len(files)]) as picture:
        left, top = number % 37, number % 23
        cut = picture.convert("RGB").crop((left, top, picture.width - top, picture.height - left))
        file = io.BytesIO()
        cut.resize(size).save(file, "JPEG", quality=90)
    return file.getvalue()


def tree(folder: Path) -> dict[str, bytes]:
    """The results in a folder, by their names."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".densepose" not in path.parts
    }


@pytest.fixture(scope="module", params=[40, pytest.param(200, marks=pytest.mark.slow)])
def images(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number in range(request.param):
        path = folder / ("even" if number % 2 == 0 else "odd") / f"{number:03}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(figure(number))
    (folder / "even" / BAD[0]).write_bytes(b"")
    (folder / "even" / BAD[1]).write_bytes(b"this is no image")
    (folder / "even" / BAD[2]).write_bytes(figure(0)[:200])
    (folder / "even" / BAD[3]).unlink()
    (folder / "even" / BAD[3]).symlink_to("nowhere.jpg")
    (folder / "odd" / BAD[4]).unlink()
    os.mkfifo(folder / "odd" / BAD[4])
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "server.log"
    with running_server(SETTINGS, log) as server:
        yield server


@pytest.fixture(scope="module")
def undisturbed(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed")
    check(*run(str(images), "--out", str(out), *WISHES))
    return tree(out)


def check(status: int, said: str) -> None:
    """All but the five were described, and these were told."""
    assert status == 1, said
    lines = [line for line in said.splitlines() if ".jpg: " in line]
    assert len(lines) == len(BAD), said
    for name in BAD:
        assert any(f"{name}: un" in line for line in lines), said


def check_killed_and_resumed(
    images: Path, out: Path, undisturbed: dict[str, bytes], *options: str
) -> None:
    arguments = (str(images), "--out", str(out), *WISHES, *options)
    with started(*arguments) as process:
        wait_for_results(process, out, 12)
        process.send_signal(signal.SIGKILL)
    found = tree(out)
    assert 0 < len(found) < len(undisturbed)
    # Whatever is there is whole.
    assert found.items() <= undisturbed.items()
    assert list((out / ".densepose").glob("parts-*"))
    status, said = run(*arguments)
    check(status, said)
    assert "already there" in said
    assert tree(out) == undisturbed
    assert not list((out / ".densepose").glob("parts-*"))


def test_a_run_describes_every_good_image(images: Path, undisturbed: dict[str, bytes]) -> None:
    places = {str(path.relative_to(images).with_suffix("")) for path in images.rglob("*.jpg")}
    results = [name for name in undisturbed if name.endswith("result.json")]
    bad = {place for place in places if f"{Path(place).name}.jpg" in BAD}
    assert {name.removesuffix(".maps/result.json") for name in results} == places - bad
    answers = [json.loads(undisturbed[name]) for name in results]
    assert sum(len(answer["instances"]) for answer in answers) > len(places) / 2


def test_killed_and_resumed_a_run_is_as_if_undisturbed(
    images: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    check_killed_and_resumed(images, tmp_path, undisturbed)


def test_killed_and_resumed_over_http_a_run_is_as_if_undisturbed_and_in_one_process(
    images: Path, undisturbed: dict[str, bytes], tmp_path: Path, server: Server
) -> None:
    check_killed_and_resumed(images, tmp_path, undisturbed, "--server", server.url)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images, one of which is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in (1, 2):
        (folder / f"{number}.jpg").write_bytes(figure(number))
    (folder / "3.jpg").write_bytes(b"none")
    return folder


QUICK = ("--short-side", "128")


def test_pictures_of_names_that_nobody_expects_are_described(
    folder: Path, tmp_path: Path, server: Server
) -> None:
    names = [
        b"-rf.jpg",
        b"two\nlines.jpg",
        b"not\xffutf8.jpg",
        "größe .jpg".encode(),
        b"\x1b[2J.jpg",
    ]
    for name in names:
        (folder / os.fsdecode(name)).write_bytes(figure(5))
    (folder / "\x1b[31mbad.jpg").write_bytes(b"none")
    listed = b"\0".join(os.fsencode(folder / os.fsdecode(name)) for name in names)
    listed += b"\0" + os.fsencode(folder / "\x1b[31mbad.jpg") + b"\0"
    out = tmp_path / "out"
    options = ("--root", str(folder), "--out", str(out), "--server", server.url, *QUICK)
    status, said = run("-", *options, listed=listed)
    assert status == 1
    assert "\\x1b[31mbad.jpg: undecodable_image" in said
    assert "\x1b" not in said
    assert set(tree(out)) == {os.fsdecode(name.replace(b".jpg", b".png")) for name in names}


def test_all_done_is_exit_status_0_and_looked_at_no_more(
    folder: Path, tmp_path: Path, server: Server
) -> None:
    out = tmp_path / "out"
    options = (str(folder), "--out", str(out), "--server", server.url, *QUICK)
    (folder / "3.jpg").unlink()
    status, said = run(*options)
    assert (status, "2 described, 0 failed" in said) == (0, True)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.png")}
    status, said = run(*options)
    assert (status, "0 described, 2 already there, 0 failed" in said) == (0, True)
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.png")} == before


def test_another_question_is_not_answered_into_the_same_folder(
    folder: Path, tmp_path: Path, server: Server
) -> None:
    out = tmp_path / "out"
    options = (str(folder), "--out", str(out), "--server", server.url, *QUICK)
    run(*options)
    before = tree(out)
    status, said = run(*options, "--render", "segm")
    assert (status, "another question" in said) == (2, True)
    assert tree(out) == before
    status, _ = run(*options, "--render", "segm", "--overwrite")
    assert (status, set(tree(out))) == (1, set(before))
    assert all(tree(out)[name] != before[name] for name in before)


def test_a_file_that_no_run_made_is_not_taken_for_a_result(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "2.png").write_bytes(b"precious")
    with pytest.raises(SystemExit) as raised:
        main(["predict", str(folder), "--out", str(out)])
    assert raised.value.code == 2
    assert "2.png is there already" in capsys.readouterr().err
    assert (out / "2.png").read_bytes() == b"precious"


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("x.jpg", "--min-score", "2"),
        ("x.jpg", "--render", "nothing"),
        ("x.jpg", "--naming", "viton-hd", "--outputs", "iuv"),
        ("x.jpg", "--naming", "nobody's"),
        ("x.jpg", "--for", "nobody"),
        ("x.jpg", "--for", "CatVTON", "--render", "viton"),
        ("x.jpg", "--for", "LaDI-VTON"),
        ("x.jpg", "--for", "CatVTON", "--naming", "dump"),
        ("x.jpg", "--server", "http://localhost", "--key-file", "nowhere"),
        ("x.jpg", "--server", "http://localhost", "--key-file", os.devnull),
        ("x.jpg", "--server", "localhost"),
    ],
)
def test_what_makes_no_sense_is_exit_status_2(
    tmp_path: Path, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["predict", *options, "--out", str(tmp_path / "out")])
    assert raised.value.code == 2
    assert "densepose predict: error: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_server_that_is_not_there_ends_the_run(folder: Path, tmp_path: Path) -> None:
    address = "http://127.0.0.1:9"
    status, said = run(str(folder), "--out", str(tmp_path / "out"), "--server", address)
    assert status == 1
    assert "densepose: server_unreachable: " in said
    assert "3 not looked at" in said


def test_a_model_that_the_server_has_not_ends_the_run(
    folder: Path, tmp_path: Path, server: Server
) -> None:
    options = ("--out", str(tmp_path / "out"), "--server", server.url, "--model", "nobody")
    status, said = run(str(folder), *options)
    assert (status, "densepose: unknown_model: " in said) == (1, True)


def drawn(server: Server, photo: Path, preset: str, min_score: float) -> bytes:
    accept = {"uv-npz": "application/x-npz"}.get(preset, "image/png")
    with DensePose(server.url) as densepose:
        return densepose.fetch(photo, accept, render=preset, min_score=min_score)


def pixels(file: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(file)) as picture:
        return np.asarray(picture)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """In a folder as data sets have them."""
    path = tmp_path / "set" / "upper_body" / "images" / "000007_0.png"
    path.parent.mkdir(parents=True)
    shutil.copy(FIGURES / "test4_3fig.png", path)
    shutil.copy(path, path.with_name("000007_1.png"))
    return path


def test_dress_code_has_what_its_renders_show(photo: Path, tmp_path: Path, server: Server) -> None:
    out = tmp_path / "out"
    options = ["--naming", "dresscode", "--server", server.url, "--out", str(out)]
    assert main(["predict", str(tmp_path / "set"), *options]) == 0
    files = tree(out)
    assert set(files) == {f"upper_body/dense/000007_5{end}" for end in (".png", "_uv.npz")}
    labels = pixels(files["upper_body/dense/000007_5.png"])
    assert np.array_equal(labels, pixels(drawn(server, photo, "labels", 0.8)))
    assert labels.any()
    uv = np.load(io.BytesIO(files["upper_body/dense/000007_5_uv.npz"]))["uv"]
    expected = np.load(io.BytesIO(drawn(server, photo, "uv-npz", 0.8)))["uv"]
    assert np.array_equal(uv, expected)


def test_densepose_1_has_what_its_renders_show(photo: Path, tmp_path: Path, server: Server) -> None:
    out = tmp_path / "out"
    options = ["--naming", "dp1", "--server", server.url, "--out", str(out)]
    assert main(["predict", str(photo), *options]) == 0
    files = tree(out)
    assert set(files) == {"000007_0_IUV.png", "000007_0_INDS.png"}
    for end, preset in (("IUV", "iuv-dp1"), ("INDS", "instances")):
        expected = pixels(drawn(server, photo, preset, 0.65))
        assert np.array_equal(pixels(files[f"000007_0_{end}.png"]), expected)
        assert expected.any()


def test_viton_hd_has_the_picture_of_its_render(
    photo: Path, tmp_path: Path, server: Server
) -> None:
    images = photo.parent.rename(photo.parents[1] / "image")
    out = tmp_path / "out"
    options = ["--naming", "viton-hd", "--server", server.url, "--out", str(out)]
    assert main(["predict", str(tmp_path / "set"), *options]) == 0
    files = tree(out)
    assert set(files) == {f"upper_body/image-densepose/00000{end}.jpg" for end in ("7_0", "7_1")}
    expected = pixels(drawn(server, images / "000007_0.png", "viton", 0.8)).astype(int)
    shown = pixels(files["upper_body/image-densepose/000007_0.jpg"])
    assert np.abs(shown - expected).mean() < 2


@pytest.mark.parametrize(
    ("options", "suffix"),
    [
        ((), "png"),
        (("--outputs", "labels", "--format", "picture"), "png"),
        (("--render", "labels-npy"), "npy"),
        (("--render", "coco-json"), "json"),
        (("--for", "CatVTON"), "png"),
        (("--for", "LaDI-VTON", "--render", "uv-npz"), "npz"),
        (("--outputs", "iuv,confidence", "--model", "demo", "--format", "npz"), None),
        (("--outputs", "iuv,uv", "--format", "npz"), "npz"),
        (("--outputs", "none"), "maps/result.json"),
    ],
)
def test_every_form_is_kept_under_its_suffix(
    options: tuple[str, ...], suffix: str | None, photo: Path, tmp_path: Path, server: Server
) -> None:
    arguments = [str(photo), "--server", server.url, "--out", str(tmp_path / "out"), *options]
    status = main(["predict", *arguments])
    # The demo has no confidences: no image could have them.
    assert status == (1 if suffix is None else 0)
    assert set(tree(tmp_path / "out")) == (set() if suffix is None else {f"000007_0.{suffix}"})


@pytest.mark.slow
def test_the_memory_of_a_long_run_is_flat() -> None:
    command = [sys.executable, "-m", "load_tests.predict_folder", "--files", "6000"]
    measured = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    growth = re.search(r"growth after the first tenth: ([+-][0-9.]+)%", measured.stdout)
    assert growth is not None
    assert float(growth[1]) < 5


def test_an_interrupted_run_is_exit_status_130_and_leaves_nothing_half(
    images: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    with started(str(images), "--out", str(tmp_path), *WISHES) as process:
        wait_for_results(process, tmp_path, 1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, said
    assert b"not looked at" in said
    assert b"Traceback" not in said
    assert tree(tmp_path).items() <= undisturbed.items()
    assert not list((tmp_path / ".densepose").glob("parts-*"))

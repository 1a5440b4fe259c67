import argparse
import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
import torch

from model_store.catalogue import load_catalogue, parse_catalogue
from model_store.errors import (
    CheckpointRejected,
    CheckpointUnavailable,
    ModelNotAdded,
    ModelStoreError,
    UnknownModel,
)
from service import models_cli
from service.errors import UndecodableImage
from service.models_cli import add_models_commands
from service.settings import Settings
from tests.integration.mirror import MODEL, Mirror, describe, make_checkpoint, running_mirror

CONTENT = make_checkpoint(1000)
DEMO = Path(str(resources.files("model_store").joinpath("demo.pkl")))


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """A mirror of a zoo of three: a good one, a missing one, and one that is non-commercial."""
    good = describe(CONTENT)
    missing = good.replace(MODEL, "missing").replace("123456", "111111").replace("a_conf", "b_conf")
    restricted = describe(CONTENT, digests="none").replace(MODEL, "restricted")
    restricted += '\nlicence = "CC BY-NC 4.0"\npublished = { dp_ap_gps = 48.894 }'
    text = f"{good}\n{missing}\n{restricted}"

    def load(zoo_url: str):
        return parse_catalogue(text, zoo_url)

    monkeypatch.setattr(models_cli, "load_catalogue", load)
    with running_mirror() as mirror:
        for card in load(mirror.url).values():
            if card.id != "missing":
                mirror.files[card.url.removeprefix(mirror.url)] = CONTENT
        yield mirror


@pytest.fixture
def run(tmp_path: Path, request: pytest.FixtureRequest):
    parser = argparse.ArgumentParser()
    add_models_commands(parser)
    settings = {"model_store": tmp_path / "store", "device": "cpu"}
    if "mirror" in request.fixturenames:
        settings["zoo_url"] = request.getfixturevalue("mirror").url

    def run(*arguments: str, **changes: object) -> None:
        chosen = parser.parse_args(arguments)
        chosen.command(chosen, Settings(**settings | changes))

    return run


@pytest.fixture
def say(run, capsys: pytest.CaptureFixture[str]):
    def say(*arguments: str, **changes: object) -> str:
        run(*arguments, **changes)
        return capsys.readouterr().out

    return say


def test_the_list_has_every_model_in_aligned_columns(say):
    head, *rows = say("list").splitlines()
    assert " ".join(head.split()) == "ID KIND GROUP AP LICENCE SIZE KNOWN BY STATE"
    assert [row.split()[0] for row in rows] == list(load_catalogue())
    assert {row.index("absent") for row in rows[1:]} == {head.index("STATE")}
    told = [" ".join(row.split()) for row in rows]
    assert told[0] == "demo chart demo - Apache-2.0 8.3 MB SHA-256 stored"
    assert "R_50_FPN_s1x chart improved 63.7 CC BY-SA 3.0 255.8 MB SHA-256 absent" in told
    assert "cse_R_50_FPN_s1x cse cse_hard 64.4 not stated - MD5, 24 bits absent" in told


def test_the_list_says_which_models_nothing_is_known_of(say):
    unknown = [row.split()[0] for row in say("list").splitlines() if "  nothing  " in row]
    assert unknown == ["ResNet50_FPN_s1x-e2e", "ResNet101_FPN_s1x-e2e"]


def test_models_that_are_not_for_commerce_can_be_left_out(say):
    text = say("list", "--exclude-noncommercial")
    assert len(text.splitlines()) == 1 + 42
    assert "BY-SA" in text
    assert "BY-NC" not in text


def test_all_that_is_known_of_a_model_is_shown(say):
    text = say("show", "165712039")
    rows = dict(line.split(maxsplit=1) for line in text.splitlines())
    assert rows["id"] == "R_50_FPN_s1x"
    assert rows["expected"].startswith("SHA-256 b8a7382001b1")
    assert rows["dp_ap_gps"] == "63.7"
    assert rows["state"] == "absent"
    assert "nothing: neither size nor digest" in say("show", "ResNet50_FPN_s1x-e2e")
    assert "smpl_27554" in say("show", "cse_R_50_FPN_s1x")


def test_an_unknown_model_is_an_error(run):
    for command in ("show", "pull", "check", "verify", "remove"):
        with pytest.raises(UnknownModel):
            run(command, "nothing")


def test_a_model_is_pulled_verified_and_removed(say, mirror: Mirror):
    assert say("pull", MODEL) == f"{MODEL}: stored, 0.0 MB\n"
    assert "stored" in say("list").splitlines()[1]
    assert say("verify").startswith(f"{MODEL}: good, {len(CONTENT)} bytes, sha256 ")
    assert say("remove", MODEL) == f"removed {MODEL}\n"
    assert say("verify") == ""
    assert "absent" in say("list").splitlines()[1]


def test_a_model_that_fails_does_not_stop_the_others(
    run, mirror: Mirror, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(CheckpointUnavailable, match="missing could not be had"):
        run("pull", "--all")
    output = capsys.readouterr()
    assert output.out.splitlines() == [f"{name}: stored, 0.0 MB" for name in (MODEL, "restricted")]
    assert "missing" not in output.err


def test_of_several_that_fail_each_has_its_line(
    run, mirror: Mirror, capsys: pytest.CaptureFixture[str]
):
    mirror.files.clear()
    with pytest.raises(CheckpointUnavailable, match="restricted could not be had"):
        run("pull", "--group", "test")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dense")]
    assert [line.split()[1:3] for line in lines] == [
        ["checkpoint_unavailable:", MODEL],
        ["checkpoint_unavailable:", "missing"],
    ]


def test_what_is_not_for_commerce_is_not_pulled(say, mirror: Mirror):
    mirror.files |= {
        path.replace("123456", "111111").replace("a_conf", "b_conf"): CONTENT
        for path in mirror.files
    }
    text = say("pull", "--all", "--exclude-noncommercial")
    assert [line.partition(":")[0] for line in text.splitlines()] == [MODEL, "missing"]


def test_an_unknown_group_is_an_error_that_names_the_groups(run):
    with pytest.raises(UnknownModel, match="groups are demo, legacy, improved"):
        run("pull", "--group", "best")


@pytest.mark.parametrize(
    "arguments",
    [
        ["pull"],
        ["pull", "--all", "demo"],
        ["pull", "--all", "--group", "legacy"],
        ["add", "mine", "file"],
        ["check", "demo", "--photo", "/nowhere.jpg"],
        ["nothing"],
        [],
    ],
)
def test_wrong_usage_is_told_by_the_parser(run, arguments: list[str]):
    with pytest.raises(SystemExit) as error:
        run(*arguments)
    assert error.value.code == 2


def test_offline_nothing_is_pulled(run, mirror: Mirror):
    with pytest.raises(CheckpointUnavailable, match="DENSEPOSE_OFFLINE"):
        run("pull", MODEL, offline=True)
    assert mirror.requests == []


def test_own_weights_are_added_checked_and_removed(say, tmp_path: Path):
    text = say("add", "mine", str(DEMO), "--like", "demo", "--short-side", "160")
    assert text == (
        f"added mine: {DEMO.stat().st_size} bytes, sha256 {load_catalogue()['demo'].sha256}\n"
    )
    report = dict(line.split(maxsplit=1) for line in say("check", "mine").splitlines())
    assert report["model"] == "mine"
    assert f"torch {torch.__version__.partition('+')[0]}" in report["versions"]
    assert report["sha256"] == load_catalogue()["demo"].sha256
    assert report["unused"] == "0"
    assert report["photo"].startswith("512 x 384, sha256 ")
    assert int(report["instances"]) > 0
    assert {"pull", "verify", "load", "predict", "platform", "device"} <= set(report)
    say("remove", "mine")
    assert "mine" not in say("list")


def test_a_photo_of_one_s_own_can_be_checked_with(say, run, tmp_path: Path):
    photo = tmp_path / "photo.png"
    shutil.copy(DEMO, photo)
    with pytest.raises(UndecodableImage):
        run("check", "demo", "--photo", str(photo))
    shutil.copy("tests/parity/data/demo/test1_1fig.png", photo)
    assert " person 0.9" in say("check", "demo", "--photo", str(photo))


def test_a_report_ends_where_the_model_fails(run, mirror: Mirror, capsys):
    with pytest.raises(CheckpointUnavailable):
        run("check", "missing")
    assert capsys.readouterr().out.splitlines()[-1].startswith("expected ")
    with pytest.raises(CheckpointRejected, match="another architecture"):
        run("check", MODEL)
    assert "sha256" in capsys.readouterr().out


def test_a_damaged_file_is_told_by_verify(run, mirror: Mirror, tmp_path: Path):
    run("pull", MODEL, "restricted")
    for path in tmp_path.glob("store/*/*.pkl"):
        path.write_bytes(CONTENT[:-1])
    with pytest.raises(CheckpointRejected, match="restricted: a_checkpoint"):
        run("verify")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["add", "demo", str(DEMO), "--like", "demo"], ModelNotAdded),
        (["add", "mine", "/nowhere.pkl", "--like", "demo"], CheckpointUnavailable),
        (["add", "mine", str(DEMO), "--like", "R_50_FPN_s1x"], CheckpointRejected),
        (["add", "mine", str(DEMO), "--like", "nothing"], UnknownModel),
    ],
)
def test_weights_that_cannot_be_added_are_an_error(
    run, arguments: list[str], error: type[ModelStoreError]
):
    with pytest.raises(error):
        run(*arguments)

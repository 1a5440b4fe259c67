import errno
import hashlib
import json
import logging
import os
import pickle
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from model_store import store as module
from model_store.catalogue import ModelCard, load_catalogue
from model_store.errors import (
    CheckpointRejected,
    CheckpointUnavailable,
    ModelNotAdded,
    UnknownModel,
)
from model_store.locking import locked
from model_store.store import ModelStore, StoredState, default_folder

CATALOGUE = load_catalogue()
SHAPES = {"a.weight": (3, 2)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(folder: Path) -> ModelStore:
    return ModelStore(folder, CATALOGUE)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "my weights.pkl"
    path.write_bytes(pickle.dumps({"model": {"a.weight": np.ones((3, 2), np.float32)}}, 4))
    return path


def visible(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if not path.name.startswith(".")]


def test_a_store_without_a_folder_has_the_catalogue_s_models(store: ModelStore):
    assert store.cards == CATALOGUE
    assert store.find("165712039") is CATALOGUE["R_50_FPN_s1x"]


def test_the_demo_is_always_there(store: ModelStore):
    demo = store.find("demo")
    assert store.state(demo) == StoredState("stored", demo.num_bytes)
    assert store.verify(demo).sha256 == demo.sha256
    store.pull(demo)
    assert "backbone.bottom_up.stem.conv1.weight" in store.load_arrays(demo)
    with pytest.raises(CheckpointUnavailable, match="comes with this package"):
        store.remove("demo")
    assert store.state(demo).state == "stored"


def test_a_file_in_its_model_s_folder_is_that_model_s_checkpoint(store: ModelStore, folder: Path):
    card = store.find("R_50_FPN_s1x")
    assert store.state(card) == StoredState("absent", 0)
    path = folder / "R_50_FPN_s1x" / "model_final_162be9.pkl"
    path.parent.mkdir(parents=True)
    path.touch()
    assert store.state(card) == StoredState("stored", 0)


@pytest.mark.parametrize("act", [ModelStore.load_arrays, ModelStore.verify])
def test_a_missing_file_s_error_says_what_to_put_where_without_the_store_s_path(
    store: ModelStore, folder: Path, act: Callable[[ModelStore, ModelCard], object]
):
    card = store.find("R_50_FPN_s1x")
    with pytest.raises(CheckpointUnavailable) as error:
        act(store, card)
    message = str(error.value)
    assert "fetch it with `densepose models pull R_50_FPN_s1x`" in message
    assert f"put model_final_162be9.pkl into its folder R_50_FPN_s1x ({card.url})" in message
    assert "densepose models add" in message
    assert str(folder) not in message
    offline = ModelStore(folder, CATALOGUE, is_offline=True)
    with pytest.raises(CheckpointUnavailable, match=r"not to be touched.*put model_final_162be9"):
        act(offline, card)
    assert not folder.exists()


def test_a_mirror_s_password_is_in_no_message(folder: Path):
    catalogue = load_catalogue("https://ada:secret@mirror.example/zoo/")
    card = catalogue["R_50_FPN_s1x"]
    assert card.source.startswith("https://mirror.example/zoo/densepose_rcnn_R_50_FPN_s1x/")
    with pytest.raises(CheckpointUnavailable) as error:
        ModelStore(folder, catalogue).load_arrays(card)
    assert "secret" not in str(error.value)
    assert card.source in str(error.value)


def test_an_added_model_is_served_like_the_one_it_resembles(
    store: ModelStore, folder: Path, weights: Path
):
    added = store.add("mine", weights, "cse/densepose_rcnn_R_50_FPN_s1x", SHAPES)
    assert added == store.find("MINE") == store.cards["mine"]
    like = CATALOGUE["cse_R_50_FPN_s1x"]
    assert added.architecture == like.architecture
    assert added.kind == "cse"
    assert (added.short_side, added.long_side) == (800, 1333)
    assert added.num_bytes == weights.stat().st_size
    assert added.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert (added.url, added.licence, added.md5_prefix, added.published) == (None, None, None, {})
    assert (folder / "mine" / "checkpoint").read_bytes() == weights.read_bytes()
    assert visible(folder) == ["mine"]


def test_an_added_model_stays_when_the_original_goes(store: ModelStore, weights: Path):
    store.add("mine", weights, "demo", SHAPES)
    weights.unlink()
    assert (store.load_arrays(store.find("mine"))["a.weight"] == 1).all()


def test_a_model_that_another_process_adds_is_seen(folder: Path, store: ModelStore, weights: Path):
    assert "mine" not in store.cards
    ModelStore(folder, CATALOGUE).add("mine", weights, "demo", SHAPES)
    assert store.find("mine").architecture == CATALOGUE["demo"].architecture


def test_a_watched_folder_s_models_come_and_go_as_another_process_changes_it(
    folder: Path, store: ModelStore, weights: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "WATCH_PERIOD_S", 0.01)
    other = ModelStore(folder, CATALOGUE)
    store.watch()
    try:
        other.add("mine", weights, "demo", SHAPES)
        wait_until(lambda: "mine" in store.cards)
        edit(folder / "mine" / "card.json", short_side=160)
        wait_until(lambda: store.cards["mine"].short_side == 160)
        other.remove("mine")
        wait_until(lambda: "mine" not in store.cards)
    finally:
        store.close()


def wait_until(is_so: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_a_known_model_is_found_without_a_look_at_the_disk(
    store: ModelStore, weights: Path, monkeypatch: pytest.MonkeyPatch
):
    store.add("mine", weights, "demo", SHAPES)
    for owner, name in ((os, "stat"), (os, "scandir"), (os, "listdir"), (Path, "stat")):
        monkeypatch.setattr(owner, name, None)
    assert len(store.cards) == len(CATALOGUE) + 1
    assert store.find("mine").id == store.find("MINE").id == "mine"
    assert store.find("165712039") is CATALOGUE["R_50_FPN_s1x"]


def test_an_unchanged_folder_is_not_read_again(
    store: ModelStore, weights: Path, monkeypatch: pytest.MonkeyPatch
):
    store.add("mine", weights, "demo", SHAPES)
    monkeypatch.setattr(module, "read_own_cards", None)
    cards = store.cards
    store.refresh()
    assert store.cards is cards


def test_the_sides_are_those_given_and_else_the_resembled_model_s(store: ModelStore, weights: Path):
    assert store.add("a", weights, "demo", SHAPES, short_side=480).long_side == 533
    both = store.add("b", weights, "demo", SHAPES, short_side=640, long_side=1024)
    assert (both.short_side, both.long_side) == (640, 1024)
    assert store.find("b") == both
    assert (store.find("a").short_side, store.find("a").long_side) == (480, 533)


@pytest.mark.parametrize(
    ("short_side", "long_side"),
    [(0, None), (-800, None), (31, 533), (800, 640), (600, None), (320, 9999)],
)
def test_sides_that_make_no_sense_are_refused(
    store: ModelStore, folder: Path, weights: Path, short_side: int, long_side: int | None
):
    with pytest.raises(ModelNotAdded, match=f"{short_side} x"):
        store.add("mine", weights, "demo", SHAPES, short_side=short_side, long_side=long_side)
    assert not folder.exists()


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../mine",
        "a/b",
        "a\\b",
        "/etc",
        ".hidden",
        "-rf",
        "mine\n",
        "mi ne",
        "mine\0",
        "më",
        "a" * 65,
        "~",
    ],
)
def test_a_name_that_is_not_a_plain_folder_s_is_refused(
    store: ModelStore, tmp_path: Path, weights: Path, name: str
):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ModelNotAdded, match="cannot be a model's name") as error:
        store.add(name, weights, "demo", SHAPES)
    assert str(error.value).isprintable()
    with pytest.raises(UnknownModel):
        store.remove(name)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["demo", "DEMO", "r_50_fpn_s1x", "165712039", "Mine", "mine"])
def test_a_name_that_is_taken_in_any_case_is_refused(store: ModelStore, weights: Path, name: str):
    store.add("mine", weights, "demo", SHAPES)
    with pytest.raises(ModelNotAdded, match="taken"):
        store.add(name, weights, "demo", SHAPES)


def test_an_own_model_can_resemble_only_one_of_the_catalogue(store: ModelStore, weights: Path):
    store.add("mine", weights, "demo", SHAPES)
    with pytest.raises(UnknownModel, match="no model 'mine'"):
        store.add("other", weights, "mine", SHAPES)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda path: path.unlink(), CheckpointUnavailable),
        (lambda path: path.write_bytes(path.read_bytes()[:-5]), CheckpointRejected),
        (lambda path: path.write_bytes(b"\x80\x02cposix\nsystem\n."), CheckpointRejected),
    ],
    ids=["missing", "damaged", "hostile"],
)
def test_a_bad_file_leaves_nothing_behind(
    store: ModelStore,
    folder: Path,
    weights: Path,
    make: Callable[[Path], object],
    error: type[Exception],
):
    make(weights)
    with pytest.raises(error, match=r"my weights\.pkl"):
        store.add("mine", weights, "demo", SHAPES)
    assert not folder.exists()


def test_a_file_of_another_architecture_is_refused(store: ModelStore, weights: Path):
    with pytest.raises(CheckpointRejected, match=r"another architecture.*a\.weight"):
        store.add("mine", weights, "demo", {"a.weight": (3, 3)})
    assert "mine" not in store.cards


def test_a_file_of_another_configuration_is_refused(store: ModelStore, weights: Path):
    served = {"a.weight": np.full((3, 2), 2, np.float32)}
    with pytest.raises(
        CheckpointRejected, match=r"a\.weight is \[1, .* and \[2, .* would be served"
    ):
        store.add("mine", weights, "demo", SHAPES, served)
    assert "mine" not in store.cards


@pytest.mark.parametrize("protocol", [0, 1])
def test_a_file_of_an_old_protocol_is_added_and_served(
    store: ModelStore, weights: Path, protocol: int
):
    weights.write_bytes(pickle.dumps({"a.weight": np.ones((3, 2))}, protocol))
    card = store.add("mine", weights, "demo", SHAPES)
    assert (store.load_arrays(card)["a.weight"] == 1).all()
    assert store.is_converted(card)
    store.verify(card)


def test_a_lock_that_somebody_keeps_for_nothing_is_named(
    store: ModelStore, folder: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
):
    card = store.add("mine", weights, "demo", SHAPES)
    monkeypatch.setattr(module, "LOCK_PATIENCE_S", 0.2)
    monkeypatch.setattr(module, "time_limit_s", lambda num_bytes: 0.0)
    with locked(folder / ".locks" / "mine", lambda: None):
        for act in (store.load_arrays, store.pull):
            with pytest.raises(CheckpointUnavailable, match=r"lock of mine, \.locks/mine in the"):
                act(card)
    assert (store.load_arrays(card)["a.weight"] == 1).all()


def test_a_full_disk_leaves_nothing_behind(
    store: ModelStore, folder: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(source: BinaryIO, target: BinaryIO, length: int) -> None:
        target.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(shutil, "copyfileobj", fail)
    with pytest.raises(CheckpointUnavailable, match="cannot be written: No space left") as error:
        store.add("mine", weights, "demo", SHAPES)
    assert str(folder) not in str(error.value)
    assert visible(folder) == []
    assert list((folder / ".unfinished").iterdir()) == []


def test_what_killed_processes_left_is_cleaned_up_by_the_next(
    store: ModelStore, folder: Path, weights: Path
):
    leftovers = folder / ".unfinished"
    for name in ("mine", "killed", "busy"):
        (leftovers / name).mkdir(parents=True)
        (leftovers / name / "checkpoint").touch()
    with locked(folder / ".locks" / "busy", lambda: None):
        store.add("mine", weights, "demo", SHAPES)
    assert visible(leftovers) == ["busy"]
    assert (store.load_arrays(store.find("mine"))["a.weight"] == 1).all()
    store.remove("mine")
    assert visible(leftovers) == []


def test_a_folder_that_cannot_be_written_is_an_error_without_its_path(
    folder: Path, store: ModelStore, weights: Path
):
    folder.write_text("a file in the folder's place")
    with pytest.raises(CheckpointUnavailable, match="the model store cannot be") as error:
        store.add("mine", weights, "demo", SHAPES)
    assert str(folder) not in str(error.value)


def test_of_two_that_add_one_name_at_once_one_succeeds(
    folder: Path, store: ModelStore, weights: Path, monkeypatch: pytest.MonkeyPatch
):
    copy = shutil.copyfileobj
    is_copying = threading.Event()

    def copy_while_another_waits(source: BinaryIO, target: BinaryIO, length: int) -> None:
        is_copying.set()
        time.sleep(0.2)
        copy(source, target, length)

    monkeypatch.setattr(shutil, "copyfileobj", copy_while_another_waits)
    with ThreadPoolExecutor(1) as executor:
        first = executor.submit(store.add, "mine", weights, "demo", SHAPES)
        is_copying.wait()
        with pytest.raises(ModelNotAdded, match="taken"):
            ModelStore(folder, CATALOGUE).add("MINE", weights, "R_50_FPN_s1x", SHAPES)
        assert store.find("mine") == first.result()
    assert visible(folder) == ["mine"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_text("{"),
        lambda path: path.write_bytes(b"\xff\xfe"),
        lambda path: path.write_text("[]"),
        lambda path: path.write_text("{}"),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: edit(path, like="no such model"),
        lambda path: edit(path, short_side="800"),
        lambda path: edit(path, short_side=-1),
        lambda path: edit(path, long_side=10**9),
    ],
)
def test_a_damaged_card_hides_its_own_model_only(
    folder: Path,
    store: ModelStore,
    weights: Path,
    damage: Callable[[Path], object],
    caplog: pytest.LogCaptureFixture,
):
    store.add("bad", weights, "demo", SHAPES)
    store.add("good", weights, "demo", SHAPES)
    damage(folder / "bad" / "card.json")
    with caplog.at_level(logging.WARNING):
        store.refresh()
        assert set(store.cards) == {*CATALOGUE, "good"}
    assert "own model bad is passed over" in caplog.text
    with pytest.raises(ModelNotAdded, match="taken"):
        store.add("bad", weights, "demo", SHAPES)
    store.remove("bad")
    store.add("bad", weights, "demo", SHAPES)
    assert "bad" in store.cards


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_folders_that_are_not_whole_models_are_not_models(folder: Path, store: ModelStore):
    for name in (".mine.0123", "empty", "not a name"):
        (folder / name).mkdir(parents=True)
    (folder / ".mine.0123" / "card.json").write_text("{}")
    (folder / "not a name" / "card.json").write_text("{}")
    (folder / "file").touch()
    assert store.cards == CATALOGUE


def test_the_catalogue_s_model_wins_over_an_own_one_of_its_name(
    folder: Path, weights: Path, caplog: pytest.LogCaptureFixture
):
    before = {name: card for name, card in CATALOGUE.items() if name != "R_101_FPN_s1x"}
    ModelStore(folder, before).add("r_101_fpn_s1x", weights, "demo", SHAPES)
    store = ModelStore(folder, CATALOGUE)
    assert store.cards == CATALOGUE
    assert "hidden by the catalogue" in caplog.text
    assert store.find("r_101_fpn_s1x") is CATALOGUE["R_101_FPN_s1x"]
    store.remove("r_101_fpn_s1x")
    assert visible(folder) == []


def test_a_removed_model_is_gone_with_its_file(folder: Path, store: ModelStore, weights: Path):
    card = store.add("mine", weights, "demo", SHAPES)
    store.load_arrays(card)
    store.remove("mine")
    assert visible(folder) == []
    assert weights.exists()
    with pytest.raises(UnknownModel):
        store.find("mine")
    for act in (store.load_arrays, store.pull, store.verify):
        with pytest.raises(CheckpointUnavailable, match="mine is gone from the model store"):
            act(card)


def test_an_own_model_whose_file_was_changed_is_refused(
    store: ModelStore, folder: Path, weights: Path
):
    card = store.add("mine", weights, "demo", SHAPES)
    (folder / "mine" / "checkpoint").write_bytes(weights.read_bytes() + b"!")
    for act in (store.load_arrays, store.pull, store.verify):
        with pytest.raises(CheckpointRejected, match="mine: checkpoint is damaged"):
            act(card)


def test_a_removed_model_of_the_catalogue_leaves_its_digest_only(
    store: ModelStore, folder: Path, weights: Path
):
    card = replace(CATALOGUE["R_50_FPN_s1x"], md5_prefix=None, sha256=None, num_bytes=None)
    store = ModelStore(folder, {card.id: card})
    path = folder / card.id / "model_final_162be9.pkl"
    path.parent.mkdir(parents=True)
    shutil.copy(weights, path)
    path.with_name(f"{path.name}.part").touch()
    store.load_arrays(card)
    assert store.state(card).num_bytes > 2 * 4 * 6
    store.remove("165712039")
    assert visible(path.parent) == ["model_final_162be9.pkl.json"]
    with pytest.raises(CheckpointUnavailable, match="R_50_FPN_s1x is not in the model store"):
        store.remove("165712039")


def test_what_is_not_there_cannot_be_removed(store: ModelStore):
    with pytest.raises(CheckpointUnavailable, match="R_50_FPN_s1x is not in the model store"):
        store.remove("R_50_FPN_s1x")
    with pytest.raises(UnknownModel, match="no model 'nothing'"):
        store.remove("nothing")


@pytest.mark.parametrize(
    ("cache", "expected"),
    [
        ("/somewhere/cache", Path("/somewhere/cache/densepose-serving")),
        ("relative/cache", Path("/home/ada/.cache/densepose-serving")),
        ("", Path("/home/ada/.cache/densepose-serving")),
        (None, Path("/home/ada/.cache/densepose-serving")),
    ],
)
def test_the_default_folder_is_in_the_user_s_cache(
    monkeypatch: pytest.MonkeyPatch, cache: str | None, expected: Path
):
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if cache is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", cache)
    assert default_folder() == expected


def test_a_folder_for_unfinished_models_that_is_a_link_is_not_emptied(
    store: ModelStore, folder: Path, weights: Path, tmp_path: Path
):
    precious = tmp_path / "home" / "photos"
    precious.mkdir(parents=True)
    (precious / "photo").touch()
    folder.mkdir()
    (folder / ".unfinished").symlink_to(precious.parent)
    with pytest.raises(CheckpointUnavailable, match=r"\.unfinished is a symbolic link"):
        store.add("mine", weights, "demo", SHAPES)
    assert (precious / "photo").exists()


def test_links_among_the_leftovers_go_and_what_they_lead_to_stays(
    store: ModelStore, folder: Path, weights: Path, tmp_path: Path
):
    precious = tmp_path / "photos"
    precious.mkdir()
    (precious / "photo").touch()
    leftovers = folder / ".unfinished"
    leftovers.mkdir(parents=True)
    for name in ("mine", "other"):
        (leftovers / name).symlink_to(precious)
    store.add("mine", weights, "demo", SHAPES)
    assert (store.load_arrays(store.find("mine"))["a.weight"] == 1).all()
    assert list(leftovers.iterdir()) == []
    assert (precious / "photo").exists()


@pytest.mark.parametrize("target", ["elsewhere", "nowhere"])
def test_a_link_of_a_name_takes_it(
    store: ModelStore, folder: Path, weights: Path, tmp_path: Path, target: str
):
    (tmp_path / "elsewhere").mkdir()
    folder.mkdir()
    (folder / "mine").symlink_to(tmp_path / target)
    with pytest.raises(ModelNotAdded, match="taken"):
        store.add("mine", weights, "demo", SHAPES)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_pipe_or_a_flood_in_a_card_s_place_hides_its_own_model_only(
    store: ModelStore, folder: Path, weights: Path, caplog: pytest.LogCaptureFixture
):
    store.add("good", weights, "demo", SHAPES)
    for name in ("pipe", "flood"):
        (folder / name).mkdir()
    os.mkfifo(folder / "pipe" / "card.json")
    (folder / "flood" / "card.json").symlink_to("/dev/zero")
    store.refresh()
    assert set(store.cards) == {*CATALOGUE, "good"}
    assert "own model pipe is passed over" in caplog.text
    assert "own model flood is passed over" in caplog.text

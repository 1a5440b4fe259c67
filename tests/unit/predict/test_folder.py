import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.predict.folder import STATE, AnotherRun, has_record, open_results

RECORD = {"model": "demo"}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def opened(out: Path, record=RECORD, *, does_overwrite=False):
    return open_results(out, record, does_overwrite=does_overwrite)


def files(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and STATE not in path.parts
    }


def parts(out: Path) -> list[Path]:
    return list((out / STATE).glob("parts-*"))


def test_files_and_folders_of_files_come_into_their_places(out: Path):
    with opened(out) as results:
        results.write(("a/1.npz", "a/1.png"), (b"npz", b"png"))
        results.write(("b.maps",), ({"result.json": b"{}", "0.iuv.png": b"iuv"},))
        assert results.has(("a/1.npz", "a/1.png"))
        assert results.has(("b.maps",))
    assert files(out) == {
        "a/1.npz": b"npz",
        "a/1.png": b"png",
        "b.maps/result.json": b"{}",
        "b.maps/0.iuv.png": b"iuv",
    }
    assert not parts(out)


def test_an_image_is_not_done_before_its_last_file_is_there(
    out: Path, monkeypatch: pytest.MonkeyPatch
):
    with opened(out) as results:
        replace = Path.replace

        def fail_at_the_last(self, target):
            if str(target).endswith(".png"):
                raise OSError(28, "No space left on device")
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", fail_at_the_last)
        with pytest.raises(OSError, match="No space"):
            results.write(("1.npz", "1.png"), (b"npz", b"png"))
        assert not results.has(("1.npz", "1.png"))
    assert files(out) == {"1.npz": b"npz"}


def test_nothing_half_has_a_name_of_its_own(out: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(_):
        raise OSError(5, "Input/output error")

    with opened(out) as results:
        monkeypatch.setattr(os, "fsync", fail)
        for content in (b"whole", {"result.json": b"{}"}):
            with pytest.raises(OSError, match="Input"):
                results.write(("1.png",), (content,))
        assert not [path for path in parts(out)[0].iterdir() if path.name.isdecimal()]
    assert files(out) == {}


def test_what_is_written_is_on_the_disk_before_it_has_its_name(
    out: Path, monkeypatch: pytest.MonkeyPatch
):
    synced = []
    with opened(out) as results:
        monkeypatch.setattr(os, "fsync", lambda _: synced.append(files(out)))
        results.write(("a.maps",), ({"1": b"1", "2": b"2"},))
    assert synced == [{}, {}]


def test_to_overwrite_leaves_nothing_of_what_was_there(out: Path):
    with opened(out) as results:
        results.write(("a.maps",), ({"0.iuv.png": b"old", "1.iuv.png": b"old"},))
        results.write(("b.png",), (b"old",))
    with opened(out, {"model": "other"}, does_overwrite=True) as results:
        assert not results.has(("b.png",))
        results.write(("a.maps",), ({"0.iuv.png": b"new"},))
        results.write(("b.png",), (b"new",))
    assert files(out) == {"a.maps/0.iuv.png": b"new", "b.png": b"new"}
    assert not parts(out)


def test_what_was_to_be_replaced_and_cannot_be_is_removed(out: Path):
    with opened(out) as results:
        results.write(("a.npz", "a.png"), (b"old", b"old"))
        results.discard(("a.npz", "a.png"))
        assert results.has(("a.npz", "a.png"))
    with opened(out, does_overwrite=True) as results:
        results.discard(("a.npz", "a.png"))
        results.discard(("b.png",))
        results.finish()
    assert files(out) == {}


def test_a_folder_has_the_results_of_one_question(out: Path):
    with opened(out) as results:
        assert not has_record(out)
        results.write(("a.png",), (b"a",))
        assert has_record(out)
    with opened(out):
        pass
    with pytest.raises(AnotherRun, match="--overwrite"), opened(out, {"model": "other"}):
        pass
    (out / STATE / "run.json").write_bytes(b"{")
    with pytest.raises(AnotherRun), opened(out):
        pass


def test_a_run_without_results_binds_no_later_one(out: Path):
    with opened(out):
        pass
    with opened(out, {"model": "other"}):
        pass


def test_results_that_were_not_all_replaced_are_not_taken_for_those_of_one_question(out: Path):
    other = {"model": "other"}
    with opened(out) as results:
        results.write(("a.png",), (b"old",))
        results.write(("b.png",), (b"old",))
    with opened(out, other, does_overwrite=True) as results:
        results.write(("a.png",), (b"new",))
    for record in (RECORD, other):
        with pytest.raises(AnotherRun, match="begin again"), opened(out, record):
            pass
    with opened(out, other, does_overwrite=True) as results:
        results.write(("a.png",), (b"new",))
        results.write(("b.png",), (b"new",))
        results.finish()
    with opened(out, other) as results:
        assert results.has(("a.png",))


def test_what_a_killed_run_left_is_removed_by_the_next_one(out: Path):
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from service.predict.folder import open_results\n"
        "out, record = Path(sys.argv[1]), {'model': 'demo'}\n"
        "with open_results(out, record, does_overwrite=False) as results:\n"
        "    os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    results.write(('a.png',), (b'half',))\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(out)], check=False)
    assert killed.returncode == -9
    assert len(parts(out)) == 1
    assert files(out) == {}
    with opened(out):
        assert len(parts(out)) == 1
    assert not parts(out)


def test_what_another_run_is_writing_is_left_alone(out: Path):
    with opened(out) as one:
        with opened(out) as other:
            assert len(parts(out)) == 2
            other.write(("b.png",), (b"b",))
        one.write(("a.png",), (b"a",))
    assert files(out) == {"a.png": b"a", "b.png": b"b"}


def test_failures_are_listed_for_programs(out: Path):
    with opened(out) as results:
        results.note_failure({"path": os.fsdecode(b"\xff\n.jpg"), "code": "unreadable_file"})
    lines = (out / STATE / "failures.jsonl").read_text().splitlines()
    assert [json.loads(line)["code"] for line in lines] == ["unreadable_file"]
    with opened(out):
        assert not (out / STATE / "failures.jsonl").exists()

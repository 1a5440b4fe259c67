import os
from pathlib import Path

import pytest

from service.predict.files import FileRejected, Source, find_sources, read_source, split_names

NOWHERE = "nowhere"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fill(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"x")


def find(*paths: str, listed: bytes = b"", root: str | None = None, out: str = NOWHERE):
    return list(find_sources(paths, listed, root=root, out=out))


def places(*paths: str, **options) -> list[str]:
    found = find(*paths, **options)
    assert not [source.problem for source in found if source.problem]
    return [source.place for source in found]


def test_a_folder_s_images_come_in_order_each_in_its_place(here: Path):
    fill("a/2.jpg", "a/10.png", "a/b/1.WEBP", "a/b.jpg", "a/c.tiff")
    assert places("a") == ["10.png", "2.jpg", "b/1.WEBP", "b.jpg", "c.tiff"]
    assert places("a/") == places("a") == places(str(here / "a"))


def test_what_is_hidden_or_no_image_is_not_taken_of_a_folder(here: Path):
    fill("a/.hidden.jpg", "a/._mac.jpg", "a/.git/x.jpg", "a/list.txt", "a/x.jpg", "a/Thumbs.db")
    assert places("a") == ["x.jpg"]


def test_a_named_file_is_taken_whatever_it_is_called(here: Path):
    fill("a/x.dat", "a/.hidden")
    assert places("a/x.dat", "a/.hidden") == ["x.dat", ".hidden"]


def test_results_within_a_folder_are_not_taken_for_images(here: Path):
    fill("a/x.jpg", "a/out/x.jpg", "a/b/out/y.jpg")
    assert places("a", out="a/out") == ["b/out/y.jpg", "x.jpg"]
    assert places("a/**/*.jpg", out="a/out") == ["b/out/y.jpg", "x.jpg"]


def test_links_are_followed_but_not_round_in_circles(here: Path):
    fill("a/b/x.jpg", "elsewhere/y.jpg")
    Path("a/b/up").symlink_to("..")
    Path("a/other").symlink_to(here / "elsewhere")
    Path("a/self.jpg").symlink_to("self.jpg")
    found = find("a")
    assert [source.place for source in found if source.problem is None] == [
        "b/x.jpg",
        "other/y.jpg",
        "self.jpg",
    ]
    assert [source.path for source in found if source.problem] == ["a/b/up"]
    with pytest.raises(FileRejected):
        read_source("a/self.jpg", max_bytes=10)


def test_a_pattern_finds_files_and_folders_below_its_fixed_part(here: Path):
    fill("a/1/x.jpg", "a/1/y.png", "a/2/x.jpg", "a/2/image/z.jpg", "a/.h/x.jpg")
    assert places("a/*/x.jpg") == ["1/x.jpg", "2/x.jpg"]
    assert places("a/**/*.jpg") == ["1/x.jpg", "2/image/z.jpg", "2/x.jpg"]
    assert places("a/?") == ["1/x.jpg", "1/y.png", "2/image/z.jpg", "2/x.jpg"]
    assert places("*/2/image") == ["a/2/image/z.jpg"]
    assert places(str(here / "a" / "*" / "x.jpg")) == ["1/x.jpg", "2/x.jpg"]


def test_two_stars_do_not_follow_links_that_multiply(here: Path):
    fill("a/x.jpg")
    for name in ("l", "m", "n"):
        Path(f"a/{name}").symlink_to(".")
    assert places("a/**/x.jpg") == ["x.jpg"]


def test_a_pattern_that_matches_nothing_is_told(here: Path):
    assert find("a/*.jpg") == [Source("a/*.jpg", "", "nothing matches it")]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(here: Path):
    fill("a[1].jpg", "a1.jpg")
    assert places("a[1].jpg") == ["a[1].jpg"]


def test_listed_names_keep_their_places_below_the_current_folder_or_the_root(here: Path):
    fill("a/x.jpg", "b/x.jpg")
    assert places("-", listed=b"a/x.jpg\nb/x.jpg\n") == ["a/x.jpg", "b/x.jpg"]
    listed = os.fsencode(here / "a" / "x.jpg")
    assert places("-", listed=listed, root=str(here / "a")) == ["x.jpg"]
    assert places("a", "b", root=".") == ["a/x.jpg", "b/x.jpg"]


def test_a_place_outside_of_the_root_is_none(here: Path):
    fill("x.jpg")
    (source,) = find("-", listed=b"../x.jpg")
    assert source.problem is not None
    assert "--root" in source.problem


@pytest.mark.parametrize(
    ("listed", "names"),
    [
        (b"", []),
        (b"\n\n", []),
        (b"a.jpg\nb c.jpg", ["a.jpg", "b c.jpg"]),
        (b"a.jpg\r\nb.jpg\r\n", ["a.jpg", "b.jpg"]),
        (b"two\nlines.jpg\0-x.jpg\0", ["two\nlines.jpg", "-x.jpg"]),
        (b"\xff.jpg\n", [os.fsdecode(b"\xff.jpg")]),
        (b" a.jpg \n", [" a.jpg "]),
    ],
)
def test_names_are_lines_or_each_ended_by_a_nul(listed: bytes, names: list[str]):
    assert list(split_names(listed)) == names


def test_a_folder_that_cannot_be_read_is_told(here: Path, monkeypatch: pytest.MonkeyPatch):
    fill("a/b/x.jpg", "a/y.jpg")
    scandir = os.scandir

    def refuse(folder):
        if str(folder).endswith("b"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    found = find("a")
    assert [(source.path, source.problem is None) for source in found] == [
        ("a/b", False),
        ("a/y.jpg", True),
    ]


def test_a_file_is_read_whole(here: Path):
    Path("x").write_bytes(b"12345")
    assert read_source("x", max_bytes=5) == b"12345"


@pytest.mark.parametrize(
    "name", ["missing", "folder", "pipe", "long", "empty", "a\0b", "/dev/zero"]
)
def test_what_is_no_file_to_be_read_is_refused_at_once(here: Path, name: str):
    Path("folder").mkdir()
    os.mkfifo("pipe")
    Path("long").write_bytes(b"123456")
    Path("empty").touch()
    with pytest.raises(FileRejected):
        read_source(name, max_bytes=5)

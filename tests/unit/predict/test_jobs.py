from pathlib import Path

import pytest

from service.predict.files import Source
from service.predict.jobs import plan_jobs
from service.predict.recipes import dresscode, plain, viton_hd


def plan(tmp_path: Path, *sources: tuple[str, str], recipe=None, out: str = "out"):
    found = [Source(str(tmp_path / path), place) for path, place in sources]
    return plan_jobs(found, recipe or plain({}, "picture"), tmp_path / out)


def places(planned) -> list[str]:
    return [job.place for job in planned.jobs]


def test_every_source_becomes_a_job_in_its_order(tmp_path: Path):
    planned = plan(tmp_path, ("b/2.jpg", "2.jpg"), ("a/1.jpg", "1.jpg"))
    assert places(planned) == ["2.jpg", "1.jpg"]
    assert not planned.failures


def test_of_two_that_would_be_one_file_the_first_is_done_and_the_other_told(tmp_path: Path):
    planned = plan(tmp_path, ("a/x.jpg", "x.jpg"), ("a/x.png", "x.png"), ("b/x.jpg", "x.jpg"))
    assert places(planned) == ["x.jpg"]
    assert [failure.code for failure in planned.failures] == ["name_taken"] * 2
    assert all("a/x.jpg" in failure.detail for failure in planned.failures)


def test_one_file_found_twice_is_done_once_and_no_failure(tmp_path: Path):
    planned = plan(tmp_path, ("a/x.jpg", "x.jpg"), ("b/../a/x.jpg", "x.jpg"))
    assert places(planned) == ["x.jpg"]
    assert not planned.failures


def test_an_image_is_never_written_over(tmp_path: Path):
    sources = [
        ("a/x.jpg", "x.jpg"),
        ("a/x.png", "x.png"),
        ("a/y.png", "y.png"),
        ("a/z.jpg", "z.jpg"),
    ]
    planned = plan(tmp_path, *sources, out="a")
    assert places(planned) == ["z.jpg"]
    assert {Path(failure.path).name for failure in planned.failures} == {"x.jpg", "x.png", "y.png"}


def test_a_problem_of_a_source_is_a_failure(tmp_path: Path):
    source = Source("nowhere/*", "", "nothing matches it")
    (failure,) = plan_jobs([source], plain({}, "picture"), tmp_path).failures
    assert (failure.path, failure.code) == ("nowhere/*", "unreadable_file")


@pytest.mark.parametrize("recipe", [viton_hd({}), dresscode({})])
def test_what_a_data_set_has_no_place_for_is_left_out_and_counted(tmp_path: Path, recipe):
    planned = plan(tmp_path, ("r/cloth/x.jpg", "cloth/x.jpg"), ("r/x.jpg", "x.jpg"), recipe=recipe)
    assert (places(planned), planned.num_left_out) == (["x.jpg"], 1)

import pytest

from load_tests.compare_detectron2 import why_no_detectron2


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import fvcore_of_nowhere", "ModuleNotFoundError: No module named 'fvcore_of_nowhere'"),
        ("raise ImportError('built for\\nanother torch')", "ImportError: built for"),
    ],
)
def test_what_keeps_detectron2_from_being_imported_is_told(tmp_path, monkeypatch, program, reason):
    (tmp_path / "densepose.py").write_text(program)
    monkeypatch.syspath_prepend(tmp_path)
    assert why_no_detectron2() == reason

"""The page about licences, against the catalogue.

`python -m tests.unit.model_store.test_licences` writes the table at its end anew.
"""

from pathlib import Path

from model_store.catalogue import load_catalogue

PAGE = Path(__file__).parents[3] / "docs" / "licences.md"
HEADING = "| model | licence | from |"


def table():
    rows = [
        f"| `{card.id}` | {card.licence or 'none stated'} | {card.source or 'this repository'} |"
        for card in load_catalogue().values()
    ]
    return "\n".join([HEADING, "|---|---|---|", *rows]) + "\n"


def test_the_page_has_the_licence_of_every_model():
    text, heading, _ = PAGE.read_text(encoding="utf-8").partition(HEADING)
    assert heading, "run this module"
    assert PAGE.read_text(encoding="utf-8") == text + table()


def test_the_page_says_what_each_licence_means():
    text = PAGE.read_text(encoding="utf-8").partition(HEADING)[0]
    for card in load_catalogue().values():
        assert f"- **{card.licence or 'none stated'}**" in text


if __name__ == "__main__":
    before = PAGE.read_text(encoding="utf-8").partition(HEADING)[0]
    PAGE.write_text(before + table(), encoding="utf-8")

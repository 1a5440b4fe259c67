import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.negotiation import (
    accepts_gzip,
    choose_media_type,
    preferred_media_type,
    types_with,
)
from service.errors import NotAcceptable

JSON, PNG = "application/json", "image/png"


@pytest.mark.parametrize(
    ("accept", "preferred"),
    [
        (None, JSON),
        ("", JSON),
        ("*/*", JSON),
        ("application/json", JSON),
        ("APPLICATION/JSON; charset=utf-8", JSON),
        ("image/png", PNG),
        ("image/*", PNG),
        ("application/*", JSON),
        ("image/png, application/json", JSON),
        ("image/png, application/json;q=0.9", PNG),
        ("image/png;q=0.1, */*;q=0.05", PNG),
        ("*/*, application/json;q=0", PNG),
        ("image/*;q=0.5, image/png;q=0, */*;q=0.1", JSON),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", JSON),
        ("application/json ; q=0.2 , image/png ; q=0.3", PNG),
        ("application/zip", None),
        ("image/webp, text/html", None),
        ("application/json;q=0", None),
        ("application/json;q=nan", None),
        ("application/json;q=2", None),
        ("application/json;q=high, image/png;q=0.1", PNG),
        (",;,;q=1", None),
    ],
)
def test_the_media_type_that_the_client_likes_best_is_taken(accept, preferred):
    assert preferred_media_type(accept, (JSON, PNG)) == preferred


@pytest.mark.parametrize(
    ("accept_encoding", "accepted"),
    [
        (None, False),
        ("", False),
        ("gzip", True),
        ("GZIP", True),
        ("br, gzip;q=0.5", True),
        ("gzip;q=0", False),
        ("*", True),
        ("*;q=0", False),
        ("*, gzip;q=0", False),
        ("identity", False),
        ("gzip;q=x", False),
    ],
)
def test_gzip_is_used_only_where_it_is_accepted(accept_encoding, accepted):
    assert accepts_gzip(accept_encoding) is accepted


@given(st.text(max_size=60))
def test_no_header_is_beyond_us(header):
    assert preferred_media_type(header, (JSON, PNG)) in {JSON, PNG, None}
    assert accepts_gzip(header) in {True, False}


def test_a_render_s_own_type_comes_first_and_once():
    assert types_with(None)[0] == JSON
    assert types_with("viton")[0] == PNG
    assert types_with("labels-npy")[0] == "application/x-npy"
    assert types_with("uv-npz") == ("application/x-npz", JSON, "application/zip")


def test_what_there_is_is_named_where_none_of_it_is_accepted():
    assert choose_media_type("image/png", types_with("viton")) == PNG
    with pytest.raises(NotAcceptable, match=r"Accept image/png, .* or application/x-npz"):
        choose_media_type("text/html", types_with("viton"))

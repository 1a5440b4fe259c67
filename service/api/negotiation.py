"""What the client accepts: media types and encodings, by RFC 9110 section 12.5."""

from collections.abc import Iterator, Sequence

from service.errors import NotAcceptable
from service.output.media import COCO, JSON, NPY, NPZ, PNG, ZIP
from service.output.presets import PRESETS

OF_MAPS = (JSON, PNG, ZIP, NPZ)
OF_ALL = (*OF_MAPS, NPY, COCO)


def choose_media_type(accept: str | None, offered: Sequence[str]) -> str:
    """The offered type that the client likes best, the first of equals.

    Raises:
        NotAcceptable: it takes none of them.
    """
    chosen = preferred_media_type(accept, offered)
    if chosen is None:
        raise NotAcceptable(f"Accept {', '.join(offered[:-1])} or {offered[-1]}.")
    return chosen


def types_with(render: str | None) -> tuple[str, ...]:
    """The types that an answer can have, the default first: that of the render's own file."""
    if render is None:
        return OF_MAPS
    return tuple(dict.fromkeys((PRESETS[render].media_type, JSON, ZIP, NPZ)))


def preferred_media_type(accept: str | None, offered: Sequence[str]) -> str | None:
    """The offered type that the client likes best, the first of equals; None where it takes none.

    `accept` is the header's value; without one, anything is accepted.
    """
    quality_of = dict(_weighted(accept or "*/*"))

    def quality(media_type: str) -> float:
        family = media_type.partition("/")[0]
        for media_range in (media_type, f"{family}/*", "*/*"):
            if media_range in quality_of:
                return quality_of[media_range]
        return 0.0

    best = max(offered, key=quality)
    return best if quality(best) > 0 else None


def accepts_gzip(accept_encoding: str | None) -> bool:
    """Whether the body of the answer may be gzip-encoded."""
    quality_of = dict(_weighted(accept_encoding or ""))
    return quality_of.get("gzip", quality_of.get("*", 0.0)) > 0


def _weighted(header: str) -> Iterator[tuple[str, float]]:
    """The header's values, in lower case, each with its weight; malformed weights count as 0."""
    for item in header.lower().split(","):
        value, *parameters = (part.strip() for part in item.split(";"))
        weight = 1.0
        for parameter in parameters:
            name, _, text = parameter.partition("=")
            if name.strip() == "q":
                weight = _weight(text.strip())
        if value:
            yield value, weight


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        return 0.0
    return weight if 0 <= weight <= 1 else 0.0

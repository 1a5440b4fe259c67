"""What a model can answer, and what that costs."""

import math
from collections.abc import Iterable, Mapping

import numpy as np

from model_store.catalogue import ModelCard
from service.datatypes import MAPS, AnyMap, MapKind, Output


def _bytes_of_pixel(kind: MapKind) -> int:
    """What a pixel takes of one map, or of those that it is gathered from."""
    if kind.of_instance:
        return sum(_bytes_of_pixel(MAPS[output]) for output in kind.made_of)
    return math.prod((*kind.planes, *kind.depth)) * np.dtype(kind.dtype).itemsize


# What a pixel of a region takes, of one field where there are several.
BYTES_PER_PIXEL: Mapping[AnyMap, int] = {
    output: _bytes_of_pixel(kind) for output, kind in MAPS.items()
}
# Of one instance, whatever its region: these maps are not of the image's pixels.
BYTES_PER_INSTANCE: Mapping[AnyMap, int] = {
    output: np.dtype(kind.dtype).itemsize * sum(map(math.prod, kind.of_instance.values()))
    for output, kind in MAPS.items()
    if kind.of_instance
}


def outputs_of(card: ModelCard) -> tuple[Output, ...]:
    """The outputs that a client may ask of the model; the first is the default."""
    return tuple(output for output in maps_of(card) if isinstance(output, Output))


def maps_of(card: ModelCard) -> tuple[AnyMap, ...]:
    """All that can be had of the model: what a client may ask, and what renders are made of."""
    has_fields = bool(card.architecture.confidence_fields)
    return tuple(
        output
        for output, kind in MAPS.items()
        if card.kind in kind.needs and (has_fields or not kind.is_per_field)
    )


def bytes_per_pixel(card: ModelCard, outputs: Iterable[AnyMap]) -> int:
    """What these outputs take together for each pixel of a region."""
    fields = card.architecture.confidence_fields
    num_bytes = 0
    for output in outputs:
        num_fields = len(fields) if MAPS[output].is_per_field else 1
        if output is Output.CONFIDENCE and "sigma_2" in fields:
            # u_std and v_std are derived from the variance.
            num_fields += 2
        num_bytes += BYTES_PER_PIXEL[output] * num_fields
    return num_bytes


def bytes_per_instance(outputs: Iterable[AnyMap]) -> int:
    """What these outputs take together for each instance, whatever its region."""
    return sum(BYTES_PER_INSTANCE.get(output, 0) for output in outputs)


def has_picture(output: Output) -> bool:
    """Whether the map is one picture of the image."""
    kind = MAPS[output]
    return bool(kind.channels) and not kind.of_instance


def tells_its_mask(card: ModelCard, output: AnyMap) -> bool:
    """Whether the map's own samples say which pixels are body: those that are not 0."""
    return MAPS[output].tells_mask and card.kind not in MAPS[output].tells_more


def is_blank_off_body(card: ModelCard, output: AnyMap) -> bool:
    """Whether the map of a region is 0 where its mask is off, and called as the output is."""
    kind = MAPS[output]
    return not (kind.of_instance or kind.is_per_field or card.kind in kind.tells_more)

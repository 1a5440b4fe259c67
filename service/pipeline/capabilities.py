"""What a model can answer, and what that costs."""

from collections.abc import Iterable, Mapping

from model_store.catalogue import ModelCard
from service.datatypes import TEXTURE_COLUMNS, TEXTURE_ROWS, TEXTURE_SIDE, AnyMap, Output, RawMap
from service.output.strips import TELLING

CHART_OUTPUTS = (
    *(Output.IUV, Output.IUV16, Output.LABELS, Output.COARSE, Output.MASK),
    *(Output.UV, Output.TEXTURE),
)
CSE_OUTPUTS = (
    *(Output.VERTICES, Output.COARSE, Output.MASK, Output.EMBEDDING),
    Output.VERTEX_COLOURS,
)

# What a pixel of a region takes: the channels, times the bytes of a sample. A texture is gathered
# from labels, U and V.
BYTES_PER_PIXEL: Mapping[AnyMap, int] = {
    Output.IUV: 3,
    Output.IUV16: 3 * 2,
    Output.UV: 2 * 4,
    Output.LABELS: 1,
    Output.COARSE: 1,
    Output.MASK: 1,
    Output.TEXTURE: 1 + 2 * 4,
    Output.VERTICES: 2,
    Output.VERTEX_COLOURS: 3,
    Output.EMBEDDING: 0,
    RawMap.UV: 2 * 4,
}
# Of one field.
BYTES_PER_CONFIDENCE = 2
# Of one instance, whatever its region: these maps are not of the image's pixels.
BYTES_PER_INSTANCE: Mapping[AnyMap, int] = {
    # 16 dimensions and 2 coarse logits at the head's own size.
    Output.EMBEDDING: (16 + 2) * 112 * 112 * 2,
    Output.TEXTURE: TEXTURE_ROWS * TEXTURE_COLUMNS * TEXTURE_SIDE**2 * 4,
}


# Or of several fields, whose maps are not called as the output is.
NOT_OF_PIXELS = frozenset({Output.CONFIDENCE, *BYTES_PER_INSTANCE})


def outputs_of(card: ModelCard) -> tuple[Output, ...]:
    """The outputs that a client may ask of the model; the first is the default."""
    if card.kind == "cse":
        return CSE_OUTPUTS
    if card.architecture.confidence_fields:
        return (*CHART_OUTPUTS, Output.CONFIDENCE)
    return CHART_OUTPUTS


def maps_of(card: ModelCard) -> tuple[AnyMap, ...]:
    """All that can be had of the model: what a client may ask, and what renders are made of."""
    if card.kind == "cse":
        return CSE_OUTPUTS
    raw = (RawMap.UV, RawMap.CONFIDENCE) if card.architecture.confidence_fields else (RawMap.UV,)
    return (*outputs_of(card), *raw)


def bytes_per_pixel(card: ModelCard, outputs: Iterable[AnyMap]) -> int:
    """What these outputs take together for each pixel of a region."""
    return sum(_bytes_of(card, output) for output in outputs)


def bytes_per_instance(outputs: Iterable[AnyMap]) -> int:
    """What these outputs take together for each instance, whatever its region."""
    return sum(BYTES_PER_INSTANCE.get(output, 0) for output in outputs)


def tells_its_mask(card: ModelCard, output: AnyMap) -> bool:
    """Whether the map's own samples say which pixels are body: those that are not 0."""
    return output in {Output.MASK, *TELLING} or _is_coarse_of_mask(card, output)


def is_blank_off_body(card: ModelCard, output: AnyMap) -> bool:
    """Whether the map of a region is 0 where its mask is off."""
    return output not in NOT_OF_PIXELS and (
        output is not Output.COARSE or _is_coarse_of_mask(card, output)
    )


def _is_coarse_of_mask(card: ModelCard, output: AnyMap) -> bool:
    # The coarse labels of a chart model say body where its parts may not.
    return output is Output.COARSE and card.kind == "cse"


def _bytes_of(card: ModelCard, output: AnyMap) -> int:
    if output in BYTES_PER_PIXEL:
        return BYTES_PER_PIXEL[output]
    fields = card.architecture.confidence_fields
    if output is RawMap.CONFIDENCE:
        return 4 * len(fields)
    # u_std and v_std are derived from the variance.
    return BYTES_PER_CONFIDENCE * (len(fields) + 2 * ("sigma_2" in fields))

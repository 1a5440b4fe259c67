"""What a model can answer, and what that costs."""

from collections.abc import Iterable, Mapping

from model_store.catalogue import ModelCard
from service.datatypes import TEXTURE_COLUMNS, TEXTURE_ROWS, TEXTURE_SIDE, AnyMap, Output, RawMap

CHART_OUTPUTS = (
    *(Output.IUV, Output.IUV16, Output.LABELS, Output.COARSE, Output.MASK),
    *(Output.UV, Output.TEXTURE),
)
CSE_OUTPUTS = (
    *(Output.VERTICES, Output.COARSE, Output.MASK, Output.EMBEDDING),
    Output.VERTEX_COLOURS,
)

# For each pixel of a region. A texture is gathered from labels, U and V.
CHANNELS: Mapping[AnyMap, int] = {
    Output.IUV: 3,
    Output.IUV16: 3,
    Output.UV: 2,
    Output.LABELS: 1,
    Output.COARSE: 1,
    Output.MASK: 1,
    Output.TEXTURE: 3,
    Output.VERTICES: 1,
    Output.VERTEX_COLOURS: 3,
    Output.EMBEDDING: 0,
    RawMap.UV: 2,
}
# Of one instance, whatever its region: these maps are not of the image's pixels.
SAMPLES_PER_INSTANCE: Mapping[AnyMap, int] = {
    # 16 dimensions and 2 coarse logits at the head's own size.
    Output.EMBEDDING: (16 + 2) * 112 * 112,
    Output.TEXTURE: TEXTURE_ROWS * TEXTURE_COLUMNS * TEXTURE_SIDE**2 * 4,
}


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


def samples_per_pixel(card: ModelCard, outputs: Iterable[AnyMap]) -> int:
    """Samples that these outputs have together for each pixel of a region."""
    return sum(_channels(card, output) for output in outputs)


def samples_per_instance(outputs: Iterable[AnyMap]) -> int:
    """Samples that these outputs have together for each instance, whatever its region."""
    return sum(SAMPLES_PER_INSTANCE.get(output, 0) for output in outputs)


def _channels(card: ModelCard, output: AnyMap) -> int:
    if output in CHANNELS:
        return CHANNELS[output]
    fields = card.architecture.confidence_fields
    if output is RawMap.CONFIDENCE:
        return len(fields)
    # u_std and v_std are derived from the variance.
    return len(fields) + 2 * ("sigma_2" in fields)

"""What a model can answer, and what that costs."""

from collections.abc import Iterable

from model_store.catalogue import ModelCard
from service.datatypes import Output

CHART_OUTPUTS = (Output.IUV, Output.IUV16, Output.LABELS, Output.COARSE, Output.MASK)
CSE_OUTPUTS = (Output.VERTICES, Output.COARSE, Output.MASK, Output.EMBEDDING)

CHANNELS = {
    Output.IUV: 3,
    Output.IUV16: 3,
    Output.LABELS: 1,
    Output.COARSE: 1,
    Output.MASK: 1,
    Output.VERTICES: 1,
}
# Whatever the region: 16 dimensions and 2 coarse logits at the head's own size.
EMBEDDING_SAMPLES = (16 + 2) * 112 * 112


def outputs_of(card: ModelCard) -> tuple[Output, ...]:
    """The outputs that a client may ask of the model; the first is the default."""
    if card.kind == "cse":
        return CSE_OUTPUTS
    if card.architecture.confidence_fields:
        return (*CHART_OUTPUTS, Output.CONFIDENCE)
    return CHART_OUTPUTS


def samples_per_pixel(card: ModelCard, outputs: Iterable[Output]) -> int:
    """Samples that these outputs have together for each pixel of a region."""
    return sum(_channels(card, output) for output in outputs if output is not Output.EMBEDDING)


def _channels(card: ModelCard, output: Output) -> int:
    if output is not Output.CONFIDENCE:
        return CHANNELS[output]
    fields = card.architecture.confidence_fields
    # u_std and v_std are derived from the variance.
    return len(fields) + 2 * ("sigma_2" in fields)

"""What an answer takes in memory, as far as it is known before any of it is computed."""

from collections.abc import Sequence
from dataclasses import dataclass

from service.api.capabilities import (
    BYTES_PER_INSTANCE,
    bytes_per_instance,
    bytes_per_pixel,
    is_blank_off_body,
)
from service.api.plan import Plan
from service.datatypes import Output, Query, RegionXYWH, SizeHW, region_of
from service.output.canvas import covers_image
from service.output.media import JSON, NPY
from service.output.presets import Drawing, Style

# Floats, of which a dump has more than one copy on their way.
FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class AnswerSize:
    """The bytes of an answer about an image of this size, by the regions that are in it."""

    plan: Plan
    image_size_hw: SizeHW

    def samples(self, regions: Sequence[RegionXYWH]) -> int:
        """What its samples take: the maps of the instances, and what is painted of them."""
        plan = self.plan
        needed = plan.needed_outputs
        num_bytes = bytes_per_pixel(plan.card, needed) * _area(regions)
        num_bytes += bytes_per_instance(needed) * len(regions)
        if plan.is_whole_image and not plan.is_render_alone:
            num_bytes += self._canvases(regions)
        if plan.style is not None:
            num_bytes += self._render(plan.style, regions)
        return num_bytes

    def written(self, regions: Sequence[RegionXYWH]) -> int:
        """What is written of them for certain: floats in JSON, which nothing compresses."""
        plan = self.plan
        if plan.media_type != JSON:
            return 0
        area = _area(regions)
        if plan.is_whole_image:
            area = self.image_size_hw[0] * self.image_size_hw[1]
        num_bytes = 0
        if Output.UV in plan.outputs:
            num_bytes += bytes_per_pixel(plan.card, {Output.UV}) * area
        if Output.EMBEDDING in plan.outputs:
            num_bytes += BYTES_PER_INSTANCE[Output.EMBEDDING] * len(regions)
        if plan.style is not None and plan.style.preset.media_type == NPY:
            num_bytes += self._render(plan.style, regions)
        return -(-num_bytes // 3) * 4

    def _canvases(self, regions: Sequence[RegionXYWH]) -> int:
        card, outputs = self.plan.card, [*self.plan.outputs]
        if covers_image(regions, self.image_size_hw):
            # The instance's own maps become those of the image.
            outputs = [output for output in outputs if not is_blank_off_body(card, output)]
        if not regions:
            # Without an instance there are no ranges, and no maps that have one.
            outputs = [output for output in outputs if output is not Output.CONFIDENCE]
        height, width = self.image_size_hw
        return bytes_per_pixel(card, outputs) * height * width

    def _render(self, style: Style, regions: Sequence[RegionXYWH]) -> int:
        preset = style.preset
        if preset.drawing is Drawing.DUMP:
            if self.plan.card.kind == "chart":
                # U and V, the largest of its arrays, are copied once as they are written.
                return 2 * FLOAT_BYTES * _area(regions)
            samples = BYTES_PER_INSTANCE[Output.EMBEDDING] // 2 * len(regions)
            return (FLOAT_BYTES + 2) * samples
        if not preset.has_samples:
            return 0
        width, height = style.size_wh or self.image_size_hw[::-1]
        is_opaque = preset.background is None or style.background != "transparent"
        num_channels = len(preset.channels) + (not is_opaque)
        sample_bytes = 1
        if preset.drawing is Drawing.UV:
            sample_bytes = 8 if preset.media_type == NPY else 4
        return num_channels * sample_bytes * width * height


def known_regions(query: Query) -> list[RegionXYWH]:
    """The regions that will be described at least, as far as the client gave their boxes."""
    return [region_of(box) for box in query.boxes_xyxy or ()]


def _area(regions: Sequence[RegionXYWH]) -> int:
    return sum(width * height for _, _, width, height in regions)

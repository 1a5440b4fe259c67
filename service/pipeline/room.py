"""The room that an answer takes: within its own limit, and within that of all requests together.

What it takes is known, as far as that can be, before any of it is computed.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from service.batching.inflight import Holding
from service.datatypes import Output, Query, RegionXYWH, SizeHW, region_of
from service.errors import AnswerTooLarge
from service.output.canvas import covers_image
from service.output.media import JSON, NPY
from service.output.presets import Drawing, Style
from service.pipeline.capabilities import (
    BYTES_PER_INSTANCE,
    bytes_per_instance,
    bytes_per_pixel,
    is_blank_off_body,
)
from service.pipeline.plan import Plan

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


class AnswerRoom:
    """What one answer takes, besides what its request held before; any thread may count.

    Its samples may take `max_bytes`, and so may what is written of them at any moment.
    """

    def __init__(self, size: AnswerSize, holding: Holding, max_bytes: int) -> None:
        self._size = size
        self._holding = holding
        self._max_bytes = max_bytes
        # Nobody adds between another's look at a sum and what it adds.
        self._lock = threading.Lock()
        self._others = holding.num_bytes
        self._samples = self._due = self._written = 0

    def check(self, regions: Sequence[RegionXYWH]) -> None:
        """Raises what an answer with these regions, or more, can never have room for.

        Raises:
            AnswerTooLarge: it would be beyond its limit, or that of all requests together.
        """
        samples, written = self._size.samples(regions), self._size.written(regions)
        if max(samples, written) > self._max_bytes:
            raise _too_large(self._max_bytes)
        if self._others + samples + written > self._holding.max_bytes:
            raise _too_large(self._holding.max_bytes)

    def reserve(self, regions: Sequence[RegionXYWH]) -> None:
        """Takes what an answer with these regions is known to need.

        Raises:
            AnswerTooLarge: it would be beyond its limit.
            Overloaded: there is no room now.
            ClientLeft: the request is over.
        """
        self.check(regions)
        with self._lock:
            self._samples = self._size.samples(regions)
            self._due = self._size.written(regions)
            self._resize()

    def keep_others(self, num_bytes: int) -> None:
        """What is held besides the answer is this much from now on, and no more than before."""
        with self._lock:
            self._others = num_bytes
            self._resize()

    def drop_samples(self) -> None:
        """The samples are there no more."""
        with self._lock:
            self._samples = 0
            self._resize()

    def count(self, num_bytes: int) -> None:
        """Counts bytes that were written, or that were dropped again: these are negative.

        Raises:
            AnswerTooLarge, Overloaded, ClientLeft: as `reserve` does.
        """
        with self._lock:
            self._written += num_bytes
            if self._written > self._max_bytes:
                raise _too_large(self._max_bytes)
            self._resize()

    def _resize(self) -> None:
        self._holding.resize(self._others + self._samples + max(self._due, self._written))


def known_regions(query: Query) -> list[RegionXYWH]:
    """The regions that will be described at least, as far as the client gave their boxes."""
    return [region_of(box) for box in query.boxes_xyxy or ()]


def _area(regions: Sequence[RegionXYWH]) -> int:
    return sum(width * height for _, _, width, height in regions)


def _too_large(max_bytes: int) -> AnswerTooLarge:
    return AnswerTooLarge(
        f"The answer would take more than {max_bytes} bytes: ask for fewer outputs, a higher "
        "min_score or fewer max_instances, or send a smaller image."
    )

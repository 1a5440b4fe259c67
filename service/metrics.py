"""Every metric of the service, declared once; base units, and labels of a bounded set of values."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

# Dense around 0.05 to 0.1 s: what one image takes the zoo's models on a GPU.
REQUEST_BUCKETS_S = (
    *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75),
    *(1.0, 1.5, 2.5, 5.0, 10.0, 30.0),
)
STAGE_BUCKETS_S = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0),
)
PIXEL_BUCKETS = tuple(float(2**power) for power in range(16, 27))
INSTANCE_BUCKETS = (0.0, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 20.0, 50.0, 100.0)
BYTE_BUCKETS = tuple(float(4**power) for power in range(5, 14))


class Metrics:
    """The metrics of one application, in a registry of their own."""

    def __init__(self, build_info: Mapping[str, str]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        Gauge(
            "densepose_build_info",
            "Always 1; the labels say what is running.",
            list(build_info),
            registry=self.registry,
        ).labels(**build_info).set(1)
        self.http_requests = Counter(
            "densepose_http_requests_total",
            "Requests of every kind, by route, method and status.",
            ["route", "method", "status"],
            registry=self.registry,
        )
        self.requests = Counter(
            "densepose_requests_total",
            "Images asked about, by model and by how it ended: success, or the error's code.",
            ["model", "outcome"],
            registry=self.registry,
        )
        self.request_duration = Histogram(
            "densepose_request_duration_seconds",
            "From the arrival of a request about an image to the end of its answer.",
            ["model"],
            buckets=REQUEST_BUCKETS_S,
            registry=self.registry,
        )
        self.stage_duration = Histogram(
            "densepose_stage_duration_seconds",
            "What each stage of a request about an image took.",
            ["stage"],
            buckets=STAGE_BUCKETS_S,
            registry=self.registry,
        )
        self.image_pixels = Histogram(
            "densepose_image_pixels",
            "Pixels of the decoded images, before they are resized.",
            buckets=PIXEL_BUCKETS,
            registry=self.registry,
        )
        self.instances_per_image = Histogram(
            "densepose_instances_per_image",
            "Instances found in an image.",
            ["model"],
            buckets=INSTANCE_BUCKETS,
            registry=self.registry,
        )
        self.response_bytes = Histogram(
            "densepose_response_bytes",
            "Bytes of the answers about an image, as sent.",
            ["media_type"],
            buckets=BYTE_BUCKETS,
            registry=self.registry,
        )

    def exposition(self) -> bytes:
        """All of them in Prometheus' text format; takes milliseconds."""
        return generate_latest(self.registry)

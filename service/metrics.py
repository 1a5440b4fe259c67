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
BATCH_BUCKETS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0)
LAG_BUCKETS_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0)
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
        self._declare_queue()
        self._declare_process()

    def _declare_queue(self) -> None:
        self.refusals = Counter(
            "densepose_refusals_total",
            "Images turned away though another time or replica could have answered, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self.queue_wait = Histogram(
            "densepose_queue_wait_seconds",
            "From the end of an image's decoding to its batch.",
            ["model"],
            buckets=STAGE_BUCKETS_S,
            registry=self.registry,
        )
        self.queue_pending = Gauge(
            "densepose_queue_pending",
            "Decoded images that wait for the device.",
            ["model"],
            registry=self.registry,
        )
        self.batches = Counter(
            "densepose_batches_total",
            "Batches, by model and by why none was larger: idle (no other of its kind waited), "
            "full, pixels, instances, deadline.",
            ["model", "trigger"],
            registry=self.registry,
        )
        self.batch_size = Histogram(
            "densepose_batch_size",
            "Images of a batch.",
            ["model"],
            buckets=BATCH_BUCKETS,
            registry=self.registry,
        )
        self.batch_splits = Counter(
            "densepose_batch_splits_total",
            "Times that a batch failed and was tried again in halves.",
            ["model"],
            registry=self.registry,
        )
        self.device_busy = Counter(
            "densepose_device_busy_seconds_total",
            "Time that the device spent on batches, by their model.",
            ["model"],
            registry=self.registry,
        )
        self.saturation = Gauge(
            "densepose_saturation_ratio",
            "How near the service is to refusing images, at 1: the fullest of the queue, the bytes "
            "in flight, and the expected wait in terms of the time that a request may take.",
            registry=self.registry,
        )

    def _declare_process(self) -> None:
        self.inflight_requests = Gauge(
            "densepose_inflight_requests",
            "Requests about an image, from their headers to their answer.",
            registry=self.registry,
        )
        self.inflight_bytes = Gauge(
            "densepose_inflight_bytes",
            "What these requests hold: bodies, then resized images, then maps.",
            registry=self.registry,
        )
        self.event_loop_lag = Histogram(
            "densepose_event_loop_lag_seconds",
            "How late the event loop is when it should wake up.",
            buckets=LAG_BUCKETS_S,
            registry=self.registry,
        )
        self.ready = Gauge(
            "densepose_ready",
            "1 while /readyz says so.",
            registry=self.registry,
        )
        self.draining = Gauge(
            "densepose_draining",
            "1 from the signal to shut down on.",
            registry=self.registry,
        )

    def exposition(self) -> bytes:
        """All of them in Prometheus' text format; takes milliseconds."""
        return generate_latest(self.registry)

"""Every metric of the service, declared once; base units, and labels of a bounded set of values."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
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
LOAD_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
BYTE_BUCKETS = tuple(float(4**power) for power in range(5, 14))

MODEL_STATES = ("absent", "downloading", "stored", "loading", "ready", "host", "failed")


@dataclass(frozen=True, slots=True)
class Memory:
    """Where models are now, and what there is: bytes by model and place, and of the device.

    The device's are `used`, what the models on it take; `budget`, what they may; and `total`.
    """

    states: Mapping[str, str]
    model_bytes: Mapping[tuple[str, str], int]
    device_bytes: Mapping[str, int]


class Metrics:
    """The metrics of one application, in a registry of their own."""

    def __init__(self, build_info: Mapping[str, str]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        build = Gauge(
            "densepose_build_info",
            "Always 1; the labels say what is running.",
            list(build_info),
            registry=self.registry,
        )
        (build.labels(**build_info) if build_info else build).set(1)
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
            ["model", "stage"],
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
        self._declare_models()
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

    def _declare_models(self) -> None:
        self.model_loads = Counter(
            "densepose_model_loads_total",
            "Times that a model was brought onto the device, by where it came from: disk or host.",
            ["model", "tier"],
            registry=self.registry,
        )
        self.model_load_duration = Histogram(
            "densepose_model_load_duration_seconds",
            "What that took, without the time in which it waited for room.",
            ["tier"],
            buckets=LOAD_BUCKETS_S,
            registry=self.registry,
        )
        self.model_evictions = Counter(
            "densepose_model_evictions_total",
            "Times that a model left the device, or its copy the host's memory, by what is left "
            "of it in memory: host, or nothing but the file on the disk.",
            ["model", "to"],
            registry=self.registry,
        )
        self.out_of_memory = Counter(
            "densepose_out_of_memory_total",
            "Times that the device had too little memory for a batch.",
            ["model"],
            registry=self.registry,
        )
        self.fatal_errors = Counter(
            "densepose_fatal_errors_total",
            "Failures after which the process ends: the device is lost, hangs (watchdog), or its "
            "thread dies again and again.",
            ["reason"],
            registry=self.registry,
        )
        for reason in ("device", "watchdog", "thread"):
            self.fatal_errors.labels(reason)

    def watch_memory(self, memory: Callable[[], Memory]) -> None:
        """Has each exposition tell where models are, and what they take there."""
        self.registry.register(_MemoryCollector(memory))

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
        self.decoder_overruns = Counter(
            "densepose_decoder_overruns_total",
            "Pictures that cost a decoder too much, by what became of it: cost (it ended at its "
            "bound of computing, or failed), deadline (it was ended at the request's), thread (it "
            "went on past the request's deadline, as a thread cannot be ended).",
            ["kind"],
            registry=self.registry,
        )
        for kind in ("cost", "deadline", "thread"):
            self.decoder_overruns.labels(kind)
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


class _MemoryCollector:
    """Looks where the models are whenever somebody wants to know."""

    def __init__(self, memory: Callable[[], Memory]) -> None:
        self._memory = memory

    def describe(self) -> list[GaugeMetricFamily]:
        """The metrics without their values, so that nobody is asked at the start."""
        return list(_memory_families())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The metrics now."""
        memory = self._memory()
        state, model_bytes, device_bytes = _memory_families()
        for model, current in memory.states.items():
            for each in MODEL_STATES:
                state.add_metric([model, each], float(each == current))
        for (model, place), num_bytes in memory.model_bytes.items():
            model_bytes.add_metric([model, place], num_bytes)
        for kind, num_bytes in memory.device_bytes.items():
            device_bytes.add_metric([kind], num_bytes)
        yield from (state, model_bytes, device_bytes)


def _memory_families() -> tuple[GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily]:
    return (
        GaugeMetricFamily(
            "densepose_model_state",
            "1 for the state that the model is in, as /v1/models has it; 0 for the others.",
            labels=["model", "state"],
        ),
        GaugeMetricFamily(
            "densepose_model_bytes",
            "What the model takes on the disk, in host memory and on the device.",
            labels=["model", "place"],
        ),
        GaugeMetricFamily(
            "densepose_device_memory_bytes",
            "What models take on the device (used), what they may take (budget), and what the "
            "device has (total).",
            labels=["kind"],
        ),
    )

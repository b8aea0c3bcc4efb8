"""What the gateway measures, in the memory of its one process; read at `/metrics`.

Labels are bounded: `model` is the graph that was requested (`unet`, `unet_tta`; empty when there is
no such model, so that a caller cannot invent values), `version` is the one that answered (empty
when none did; of each model the newest `KEPT_VERSIONS` are kept), `protocol` is grpc, stream or
http, or probe for the frames of `nuclei probe`, `size` a class of frames (`size_of`), `code` a gRPC
status name or SKIPPED, `reason` one of the few for which a request is refused before any work. Of a
challenger, `version` is its own, `outcome` one of the few ways in which a frame ends, and `by`
champion or challenger. Of the quality of frames, `group` is grey or colour, `feature` and `kind`
are fields of `nuclei.results.quality.Quality`.

Everything here belongs to the event loop.
"""

import platform
from collections import defaultdict
from collections.abc import Mapping

import psutil
from prometheus_client import REGISTRY, Counter, Gauge, Histogram, Info
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics import MetricWrapperBase

from nuclei.version import installed_version
from serving.gateway.quality import DriftWindows

KEPT_VERSIONS = 4

# From one tile on warm caches to the largest frame with 8 views on a slow machine.
SECONDS_BUCKETS = (
    0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30,
    60, 120,
)  # fmt: skip

# Largest frame of a class, pixels: one tile and little more; 2048 x 2048 of a camera; all others.
SIZES = {"small": 500_000, "medium": 4_500_000}
LARGE = "large"

QUALITY_BUCKETS: dict[str, tuple[float, ...]] = {
    "nuclei_per_mm2": (10, 30, 100, 200, 500, 1000, 2000, 3000, 5000, 7000, 10_000, 20_000),
    "coverage": (0.001, 0.003, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1),
    "median_area_px": (20, 50, 100, 150, 200, 300, 400, 600, 800, 1200, 2000, 4000, 8000),
    "area_spread": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.5, 2, 3),
    "mean_probability": (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98, 0.99, 1),
    "boundary_entropy": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1),
    "near_threshold": (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1),
    "tta_disagreement": (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1),
    "edge_share": (0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1),
    "focus": (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2),
    "saturated": (0, 1e-5, 1e-4, 1e-3, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1),
    "dynamic_range": (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1),
    "signal_to_noise": (1, 2, 3, 5, 7.5, 10, 15, 20, 30, 50, 100, 200, 500),
    "pixel_size_ratio": (0.25, 0.4, 0.5, 0.67, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 2.5, 4),
    "previous_agreement": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1),
    "estimated_score": (0.1, 0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9),
}

REQUEST_SECONDS = Histogram(
    "nuclei_request_seconds",
    "Time from the arrival of a frame to its encoded result.",
    ["model", "version", "protocol", "size", "code"],
    buckets=SECONDS_BUCKETS,
)
STAGE_SECONDS = Histogram(
    "nuclei_stage_seconds",
    "Time of one step of a successful request.",
    ["model", "version", "protocol", "stage"],
    buckets=(0.0005, 0.001, 0.002, *SECONDS_BUCKETS),
)
NUCLEI = Counter(
    "nuclei_counted",
    "Nuclei found in all frames.",
    ["model", "version", "protocol"],
)
FRAMES_IN_FLIGHT = Gauge("nuclei_frames_in_flight", "Frames held now, waiting or in work.")
BYTES_IN_FLIGHT = Gauge("nuclei_in_flight_bytes", "Memory reserved for the frames held now.")
FRAMES_IN_WORK = Gauge("nuclei_frames_in_work", "Frames worked on now.")
REJECTED = Counter("nuclei_rejected", "Requests refused before any work.", ["protocol", "reason"])
CONNECTIONS_ENDED = Counter(
    "nuclei_connections_ended",
    "Silent connections ended because their host, or all together, had too many.",
)
BYTES = Counter(
    "nuclei_transferred_bytes",
    "Bytes of frames received (in) and of results sent (out).",
    ["protocol", "direction"],
)
SHADOW_FRAMES = Counter(
    "nuclei_shadow_frames",
    "Frames chosen for the challenger, after the champion had answered them.",
    ["model", "version", "outcome"],
)
SHADOW_AGREEMENT = Histogram(
    "nuclei_shadow_agreement",
    "AP@.5 of a challenger's nuclei against the champion's.",
    ["model", "version"],
    buckets=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1),
)
SHADOW_TILE_SECONDS = Histogram(
    "nuclei_shadow_tile_seconds",
    "Inference of the same tile by champion and challenger.",
    ["model", "version", "by"],
    buckets=SECONDS_BUCKETS,
)
CANARY_FRAMES = Counter(
    "nuclei_canary_frames",
    "Frames of the callers whom a challenger answers.",
    ["model", "version", "outcome"],
)
ROLLOUT_ABORTS = Counter(
    "nuclei_rollout_aborts", "Challengers that left their bounds.", ["model", "version"]
)
TRITONS = Gauge("nuclei_triton_servers", "Tritons that are known.")
TRITONS_ANSWERING = Gauge(
    "nuclei_triton_servers_answering", "Tritons that said what they serve when last asked."
)
FAILED_LOOKUPS = Counter(
    "nuclei_triton_failed_lookups",
    "Times that the name in NUCLEI_TRITON_ADDRESS could not be looked up.",
)
CHAMPION = Gauge(
    "nuclei_champion_version", "Version that the plain name of a model means here.", ["model"]
)
# Registered by `note_certificate`: without a certificate it is absent.
CERTIFICATE_END = Gauge(
    "nuclei_certificate_not_after_timestamp_seconds",
    "When the first of the certificates ends that this process has read at its start.",
    registry=None,
)
QUALITY = {
    name: Histogram(
        f"nuclei_quality_{name}",
        f"{name} of the frames of callers (nuclei.results.quality.Quality).",
        ["model", "version"],
        buckets=buckets,
    )
    for name, buckets in QUALITY_BUCKETS.items()
}
QUALITY_FRAMES = Counter(
    "nuclei_quality_frames", "Frames whose quality was measured.", ["model", "version", "group"]
)
EMPTY_FRAMES = Counter(
    "nuclei_quality_empty_frames", "Frames without any nucleus.", ["model", "version"]
)
DOUBTFUL_FRAMES = Counter(
    "nuclei_quality_doubtful_frames",
    "Frames that differ in this from the images that the model was validated on.",
    ["model", "version", "kind"],
)
UNKNOWN_SCORES = Counter(
    "nuclei_quality_unknown_score",
    "Frames whose score the model cannot estimate, because it has seen no such frames.",
    ["model", "version"],
)
# nuclei_quality_drift, nuclei_quality_drift_threshold, nuclei_quality_drift_window_frames and
# nuclei_quality_reference.
QUALITY_DRIFT = DriftWindows()
REGISTRY.register(QUALITY_DRIFT)
BUILD = Info("nuclei_build", "Versions of this software and of its Python.")
BUILD.info({"version": installed_version(), "python": platform.python_version()})
THREADS = Gauge("process_threads", "Threads of this process.")
THREADS.set_function(psutil.Process().num_threads)

_OF_VERSIONS: tuple[MetricWrapperBase | DriftWindows, ...] = (
    *(REQUEST_SECONDS, STAGE_SECONDS, NUCLEI, SHADOW_FRAMES, SHADOW_AGREEMENT),
    *(SHADOW_TILE_SECONDS, CANARY_FRAMES, ROLLOUT_ABORTS),
    *(*QUALITY.values(), QUALITY_FRAMES, EMPTY_FRAMES, DOUBTFUL_FRAMES, UNKNOWN_SCORES),
    QUALITY_DRIFT,
)

_versions: defaultdict[str, list[str]] = defaultdict(list)
_champions: set[str] = set()


def note_version(model: str, version: str) -> None:
    """Keep the series of a model's newest versions, and forget those of the oldest.

    Args:
        model: the graph that was requested.
        version: the one that answered.
    """
    known = _versions[model]
    if version in known:
        return
    known.append(version)
    for old in known[:-KEPT_VERSIONS]:
        known.remove(old)
        for metric in _OF_VERSIONS:
            metric.remove_by_labels({"model": model, "version": old})


def size_of(pixels: int) -> str:
    """The class of a frame.

    Args:
        pixels: how many it has; 0 when that is not known.
    """
    if not pixels:
        return ""
    return next((name for name, largest in SIZES.items() if pixels <= largest), LARGE)


def note_champions(champions: Mapping[str, int]) -> None:
    """Say which version the plain name of each model means. Args: champions: by model."""
    for model in _champions - champions.keys():
        CHAMPION.remove(model)
    _champions.intersection_update(champions)
    _champions.update(champions)
    for model, version in champions.items():
        CHAMPION.labels(model).set(version)


def note_certificate(not_after: float) -> None:
    """Say when the certificate ends. Args: not_after: seconds since 1970."""
    CERTIFICATE_END.set(not_after)
    REGISTRY.register(CERTIFICATE_END)


def exposition(accept: str) -> tuple[bytes, str]:
    """All values, as text and its content type.

    Args:
        accept: the scraper's header; OpenMetrics, when it accepts that, carries trace ids as
            exemplars.
    """
    encode, content_type = choose_encoder(accept)
    return encode(REGISTRY), content_type

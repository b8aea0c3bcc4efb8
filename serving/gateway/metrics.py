"""What the gateway measures, in the memory of its one process; read at `/metrics`.

Labels are bounded: `model` is the graph that was requested (`unet`, `unet_tta`; empty when there is
no such model, so that a caller cannot invent values), `version` is the one that answered (empty
when none did; of each model the newest `KEPT_VERSIONS` are kept), `protocol` is grpc, stream or
http, `code` a gRPC status name or SKIPPED, `reason` one of the few for which a request is refused
before any work. Of a challenger, `version` is its own, `outcome` one of the few ways in which a
frame ends, and `by` champion or challenger.
"""

import platform
from collections import defaultdict

import psutil
from prometheus_client import REGISTRY, Counter, Gauge, Histogram, Info
from prometheus_client.exposition import choose_encoder

from nuclei.version import installed_version

KEPT_VERSIONS = 4

# From one tile on warm caches to the largest frame with 8 views on a slow machine.
SECONDS_BUCKETS = (
    0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30,
    60, 120,
)  # fmt: skip

REQUEST_SECONDS = Histogram(
    "nuclei_request_seconds",
    "Time from the arrival of a frame to its encoded result.",
    ["model", "version", "protocol", "code"],
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
BUILD = Info("nuclei_build", "Versions of this software and of its Python.")
BUILD.info({"version": installed_version(), "python": platform.python_version()})
THREADS = Gauge("process_threads", "Threads of this process.")
THREADS.set_function(psutil.Process().num_threads)

_OF_VERSIONS = (
    *(REQUEST_SECONDS, STAGE_SECONDS, NUCLEI, SHADOW_FRAMES, SHADOW_AGREEMENT),
    *(SHADOW_TILE_SECONDS, CANARY_FRAMES, ROLLOUT_ABORTS),
)

_versions: defaultdict[str, list[str]] = defaultdict(list)


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


def exposition(accept: str) -> tuple[bytes, str]:
    """All values, as text and its content type.

    Args:
        accept: the scraper's header; OpenMetrics, when it accepts that, carries trace ids as
            exemplars.
    """
    encode, content_type = choose_encoder(accept)
    return encode(REGISTRY), content_type

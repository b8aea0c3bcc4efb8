"""What the gateway measures; BentoML adds it up over the workers at `/metrics`.

Labels are bounded: `model` is the graph that was asked (`unet`, `unet_tta`; empty when there is no
such model, so that a caller cannot invent values), `version` is what answered (empty when nothing
did), `protocol` is grpc or http, `code` a gRPC status name.
"""

from prometheus_client import Counter, Histogram

# From a tile answered from warm caches to the largest frame with 8 views on a slow machine.
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

"""What a sync process measures; read at `/metrics` of its own port."""

from prometheus_client import Counter, Gauge

REGISTRY_REACHABLE = Gauge(
    "nuclei_sync_registry_reachable", "1 when the registry answered in the last round, else 0."
)
LAST_ROUND = Gauge(
    "nuclei_sync_last_round_timestamp_seconds", "When a round was last done without a failure."
)
CHAMPION = Gauge("nuclei_sync_champion_version", "Version that the plain name means.", ["model"])
LOADED = Gauge("nuclei_sync_loaded_versions", "Versions that Triton has loaded.", ["model"])
REGISTERED = Gauge(
    "nuclei_sync_registered_versions",
    "Versions in the registry, by what the gates said: passed, refused, or none yet.",
    ["model", "verdict"],
)
STORED_BYTES = Gauge("nuclei_sync_stored_bytes", "Bytes of downloaded versions.", ["model"])
SWITCHES = Counter("nuclei_sync_switches", "Times that the plain name changed.", ["model"])
REFUSED = Counter("nuclei_sync_refused_versions", "Versions that could not be served.", ["model"])
ABORTED = Counter("nuclei_sync_aborted_rollouts", "Rollouts that were ended.", ["model"])
FAILURES = Counter("nuclei_sync_failures", "Rounds that failed, by error.", ["error"])
WEBHOOKS = Counter(
    "nuclei_sync_webhooks", "Webhooks received, by what became of them.", ["verdict"]
)

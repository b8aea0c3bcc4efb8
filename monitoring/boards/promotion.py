"""Promotion: which version answers where, since when, and is the next one better?"""

from monitoring.boards.choices import INSTANCE, MODEL, VERSION, VERSIONS
from monitoring.panels import Dashboard, Event, Kind, Limit, Panel, Query, Row, Unit
from monitoring.promql import events, mean, quantile, rate, total
from monitoring.thresholds import Thresholds, seconds

# Version numbers are MLflow's.
HIGHEST_VERSION = 1e6

VERSIONS_ROW = Row(
    "Versions",
    (
        Panel(
            "Champion at each gateway",
            "Which version does the plain name mean, and do all gateways agree?",
            (
                Query(
                    'nuclei_champion_version{model=~"$model",instance=~"$instance"}',
                    "{{model}} at {{instance}}",
                ),
            ),
            Unit.VERSION,
            Kind.STEPS,
            lowest=1,
            highest=HIGHEST_VERSION,
            width=12,
        ),
        Panel(
            "Champion at each sync",
            "Which version has sync switched its Triton to?",
            (Query("nuclei_sync_champion_version", "{{model}} at {{instance}}"),),
            Unit.VERSION,
            Kind.STEPS,
            lowest=1,
            highest=HIGHEST_VERSION,
            width=12,
        ),
        Panel(
            "Frames by version",
            "Which versions answer callers?",
            (
                Query(
                    total(
                        rate("nuclei_request_seconds_count", f'{VERSIONS},code="OK"'),
                        "model",
                        "version",
                    ),
                    "{{model}} {{version}}",
                ),
            ),
            Unit.FRAMES_PER_SECOND,
            highest=10_000,
            stacked=True,
        ),
        Panel(
            "Versions loaded",
            "How many versions does each Triton hold?",
            (Query("nuclei_sync_loaded_versions", "{{model}} at {{instance}}"),),
            Unit.COUNT,
            highest=100,
        ),
        Panel(
            "Bytes of downloaded versions",
            "How much of the disk do versions take?",
            (Query("nuclei_sync_stored_bytes", "{{model}} at {{instance}}"),),
            Unit.BYTES,
            highest=1e13,
        ),
    ),
)

GATES = Row(
    "Gates",
    (
        Panel(
            "Registered versions, by verdict of the gates",
            "How many versions did the gates let pass, refuse, or not see yet? Why: "
            "`nuclei registry`, and the report in the version's MLflow run.",
            (
                Query(
                    "max by (model, verdict) (nuclei_sync_registered_versions)",
                    "{{model}} {{verdict}}",
                ),
            ),
            Unit.COUNT,
            highest=100_000,
        ),
        Panel(
            "Versions refused, rollouts ended, champions changed",
            "What happened in the last hour?",
            (
                Query(
                    events("nuclei_sync_switches_total", "1h", "model"), "champions of {{model}}"
                ),
                Query(
                    events("nuclei_sync_refused_versions_total", "1h", "model"),
                    "refused of {{model}}",
                ),
                Query(
                    events("nuclei_sync_aborted_rollouts_total", "1h", "model"),
                    "ended of {{model}}",
                ),
            ),
            Unit.COUNT,
            highest=1000,
            width=16,
        ),
    ),
)

ROLLOUT = Row(
    "Challenger",
    (
        Panel(
            "Agreement with the champion",
            "Does the challenger find the same nuclei (AP at an overlap of one half)?",
            (
                Query(
                    mean("nuclei_shadow_agreement", VERSIONS, "model", "version"),
                    "mean of {{model}} {{version}}",
                ),
                Query(
                    quantile(0.1, "nuclei_shadow_agreement", VERSIONS, "model", "version"),
                    "10 % of {{model}} {{version}}",
                ),
            ),
            Unit.SHARE,
            leads_to="quality",
            highest=1,
        ),
        Panel(
            "Frames shown to it, by outcome",
            "Is enough compared, and why are frames dropped?",
            (Query(total(rate("nuclei_shadow_frames_total", VERSIONS), "outcome"), "{{outcome}}"),),
            Unit.FRAMES_PER_SECOND,
            highest=10_000,
            stacked=True,
        ),
        Panel(
            "Mean time of the same tile",
            "Is it slower than the champion?",
            (Query(mean("nuclei_shadow_tile_seconds", VERSIONS, "by"), "{{by}}"),),
            Unit.SECONDS,
            highest=300,
        ),
        Panel(
            "Frames it answers, by outcome",
            "How many callers' frames does it answer, and how many does the champion save?",
            (Query(total(rate("nuclei_canary_frames_total", VERSIONS), "outcome"), "{{outcome}}"),),
            Unit.FRAMES_PER_SECOND,
            highest=10_000,
            stacked=True,
            width=12,
        ),
        Panel(
            "Challengers that left their bounds",
            "Which gateways have given up on it?",
            (
                Query(
                    f"nuclei_rollout_aborts_total{{{VERSIONS}}}",
                    "{{model}} {{version}} at {{instance}}",
                ),
            ),
            Unit.COUNT,
            highest=1000,
            width=12,
        ),
    ),
)


def _sync(thresholds: Thresholds) -> Row:
    return Row(
        "Sync",
        (
            Panel(
                "Registry reachable",
                "Did the registry answer in the last round?",
                (Query("nuclei_sync_registry_reachable", "{{instance}}"),),
                Unit.YES_NO,
                Kind.STEPS,
                highest=1,
                width=6,
            ),
            Panel(
                "Since the last good round",
                "For how long has a sync not done its work? At first: since it was started.",
                (
                    Query(
                        "time() - (nuclei_sync_last_round_timestamp_seconds > 0"
                        ' or on (job, instance) process_start_time_seconds{job="sync"})',
                        "{{instance}}",
                    ),
                ),
                Unit.SECONDS,
                highest=1e7,
                limit=Limit(seconds(thresholds.alerts.SyncLagging.behind)),
                width=6,
            ),
            Panel(
                "Failed rounds, by error",
                "What is wrong?",
                (Query(events("nuclei_sync_failures_total", "5m", "error"), "{{error}}"),),
                Unit.COUNT,
                highest=1000,
                width=6,
            ),
            Panel(
                "Webhooks, by verdict",
                "Do the registry's webhooks arrive, and does somebody forge them?",
                (Query(events("nuclei_sync_webhooks_total", "5m", "verdict"), "{{verdict}}"),),
                Unit.COUNT,
                highest=10_000,
                width=6,
            ),
        ),
    )


EVENTS = (
    Event(
        "Champion changed",
        events("nuclei_sync_switches_total", "1m", "model", "instance"),
        "{{model}}: another champion at {{instance}}",
        "green",
    ),
    Event(
        "Version refused",
        events("nuclei_sync_refused_versions_total", "1m", "model", "instance"),
        "{{model}}: a version was refused at {{instance}}",
        "orange",
    ),
    Event(
        "Rollout ended",
        events("nuclei_sync_aborted_rollouts_total", "1m", "model", "instance"),
        "{{model}}: a rollout was ended at {{instance}}",
        "red",
    ),
)


def promotion(thresholds: Thresholds) -> Dashboard:
    """Which version answers where, since when, and is the next one better?"""
    return Dashboard(
        "promotion",
        "Promotion",
        "Which version answers where, since when, and is the next one better?",
        (VERSIONS_ROW, GATES, ROLLOUT, _sync(thresholds)),
        (MODEL, VERSION, INSTANCE),
        EVENTS,
    )

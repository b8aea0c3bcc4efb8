"""The alerts besides those of the objectives.

`up` is 0 for a target that does not answer, and has no series for one that is not listed: absence
is asked for by itself. Counters that begin with their first event (an abort, a refusal) have no 0
before it, so `increase` alone would miss that one.
"""

from monitoring.promql import events
from monitoring.rule import BYTES, DURATION, PERCENTAGE, VALUE, Alert, Recording, label, percent
from monitoring.thresholds import Thresholds, seconds

# File systems that can fill up by themselves: not of memory, and no image of a container.
_DISKS = '{fstype!~"tmpfs|ramfs|squashfs|overlay"}'
_SCORE = "nuclei_quality_estimated_score"
_CHAMPION = "model:nuclei_sync_champion_version"
# A process that has had no good round yet: since its start.
_LAST_ROUND = (
    "nuclei_sync_last_round_timestamp_seconds > 0 or on (job, instance) "
    '(process_start_time_seconds{job="sync"})'
)


# Whose targets `TargetMissing` is about; that a Triton does not answer is `TritonDown`.
EVERY_JOB = '{job!="triton"}'
# In a cluster's Prometheus, which watches what is not ours, too: those of the PodMonitors.
OUR_JOBS = '{job=~"gateway|sync|probe"}'


def alerts(thresholds: Thresholds, jobs: str = EVERY_JOB) -> list[Alert]:
    """All of them, as the thresholds have them.

    Args:
        thresholds: of the alerts.
        jobs: whose targets have to answer, as a selector of series.
    """
    return [
        *_service(thresholds, jobs),
        *_triton(thresholds),
        *_machine(thresholds),
        *_promotion(thresholds),
        *_quality(thresholds),
    ]


def _service(thresholds: Thresholds, jobs: str) -> list[Alert]:
    bounds = thresholds.alerts
    probe, queue = bounds.ProbeFailing, bounds.QueueGrowing
    waiting = (
        f"avg_over_time(nuclei_frames_in_flight[{queue.window}]) - "
        f"avg_over_time(nuclei_frames_in_work[{queue.window}])"
    )
    refused = f'rate(nuclei_rejected_total{{reason!="unauthenticated"}}[{queue.window}])'
    requests = f'rate(nuclei_request_seconds_count{{protocol!="probe"}}[{queue.window}])'
    expected = (f'absent(up{{job="{job}"}})' for job in thresholds.scrape.expected)
    return [
        Alert(
            "ServiceDown",
            "page",
            'sum by (job) (up{job="gateway"}) == 0 or absent(up{job="gateway"})',
            "No gateway answers",
            f"Prometheus has reached no gateway for {bounds.ServiceDown.lasting}: callers get no "
            "answer at all.",
            "service",
            bounds.ServiceDown.lasting,
        ),
        Alert(
            "ProbeFailing",
            "page",
            "nuclei_probe_up == 0 or time() - nuclei_probe_last_success_timestamp_seconds > "
            f"{seconds(probe.silent):g}",
            "The small frame of every minute is not answered rightly",
            f"The probe at {label('instance')} has sent frames for {probe.lasting}, and none came "
            f"back with the nuclei that are in it; or it has sent none for {probe.silent}.",
            "service",
            probe.lasting,
        ),
        Alert(
            "QueueGrowing",
            "ticket",
            f"""
            label_replace({waiting}, "sign", "waiting", "job", ".*") > {queue.waiting_frames:g}
            or
            label_replace(
              sum by (job, instance) ({refused}) / (sum by (job, instance) ({requests}) > 0),
              "sign", "refused", "job", ".*") > {queue.refused_share:g}
            """,
            f"More frames come to {label('instance')} than it can do",
            '{{ if eq $labels.sign "waiting" }}'
            f"{VALUE} frames waited for their turn, on average over {queue.window}; at most "
            f"{queue.waiting_frames:g} are expected.{{{{ else }}}}"
            f"{PERCENTAGE} of the frames of the last {queue.window} were refused because the "
            f"gateway was full; at most {percent(queue.refused_share)} are expected."
            "{{ end }}",
            "service",
            queue.lasting,
        ),
        Alert(
            "CertificateExpires",
            "page",
            "nuclei_certificate_not_after_timestamp_seconds - time() < "
            f"{bounds.CertificateExpires.page_days * 86400:g}",
            f"The certificate of {label('instance')} expires",
            f"It is valid for {DURATION} more. Then no caller with TLS gets through.",
            "service",
        ),
        Alert(
            "CertificateExpires",
            "ticket",
            "nuclei_certificate_not_after_timestamp_seconds - time() < "
            f"{bounds.CertificateExpires.ticket_days * 86400:g}",
            f"The certificate of {label('instance')} expires soon",
            f"It is valid for {DURATION} more; a new one is read at the gateway's next start.",
            "service",
        ),
        Alert(
            "TargetMissing",
            "ticket",
            " or ".join((f"up{jobs} == 0", *expected)),
            f"A target of the job {label('job')} is not there",
            f"{{{{ with $labels.instance }}}}{{{{ . }}}} has not answered{{{{ else }}}}The job has "
            f"had no target{{{{ end }}}} for {bounds.TargetMissing.lasting}: what it measures is "
            "unknown, and its alerts are silent.",
            "service",
            bounds.TargetMissing.lasting,
        ),
    ]


def _triton(thresholds: Thresholds) -> list[Alert]:
    bounds = thresholds.alerts
    dead = bounds.TritonInstanceDead
    by = "sum by (job, instance, model, version)"
    # Of an ensemble, whose step failed, the reason is OTHER.
    failed = f'rate(nv_inference_request_failure{{reason="BACKEND"}}[{dead.window}])'
    succeeded = f"rate(nv_inference_request_success[{dead.window}])"
    return [
        Alert(
            "TritonDown",
            "page",
            'up{job="triton"} == 0',
            f"Triton at {label('instance')} does not answer",
            f"Its metrics have not been reached for {bounds.TritonDown.lasting}. Frames that need "
            "it get UNAVAILABLE; nuclei serve restarts it within seconds, so something keeps it "
            "down.",
            "triton",
            bounds.TritonDown.lasting,
        ),
        Alert(
            "TritonUnreached",
            "ticket",
            """
            label_replace(
              nuclei_triton_servers - nuclei_triton_servers_answering,
              "sign", "silent", "job", ".*") > 0
            or
            label_replace(
              rate(nuclei_triton_failed_lookups_total[1m]), "sign", "name", "job", ".*") > 0
            """,
            f"The gateway at {label('instance')} does not reach all Tritons",
            f'{{{{ if eq $labels.sign "silent" }}}}{VALUE} of the Tritons that it knows have not '
            f"said for {bounds.TritonUnreached.lasting} what they serve: the others have their "
            f"tiles too.{{{{ else }}}}For {bounds.TritonUnreached.lasting} the name in "
            "NUCLEI_TRITON_ADDRESS has not been found: the addresses of before are used, and a "
            "Triton that is added gets no tiles.{{ end }}",
            "triton",
            bounds.TritonUnreached.lasting,
        ),
        Alert(
            "TritonInstanceDead",
            "page",
            f"""
            {by} ({failed}) / ({by} ({failed}) + {by} ({succeeded}) > 0) > {dead.failed_share:g}
            or
            {by} (min_over_time(nv_inference_pending_request_count[{dead.window}])) > 0
            unless {by} ({succeeded}) > 0
            """,
            f"{label('model')} does not answer in Triton at {label('instance')}",
            f"Over {dead.window}, more than {percent(dead.failed_share)} of the requests of "
            f"{label('model')}, version {label('version')}, failed inside Triton, or requests "
            "waited and none was completed: a process of the model has ended or hangs.",
            "triton",
            dead.lasting,
        ),
    ]


def _machine(thresholds: Thresholds) -> list[Alert]:
    memory, disk = thresholds.alerts.MemoryHigh, thresholds.alerts.DiskFull
    return [
        Alert(
            "MemoryHigh",
            "ticket",
            f"""
            1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes
            > {memory.machine_share:g}
            or
            process_resident_memory_bytes{{job="gateway"}} > {memory.gateway_bytes}
            """,
            f"Memory runs out at {label('instance')}",
            '{{ if eq $labels.job "gateway" }}'
            f"The gateway's process holds {BYTES}; at most "
            f"{memory.gateway_bytes / 2**30:.3g}GiB are expected.{{{{ else }}}}"
            f"{PERCENTAGE} of the machine's memory is in use; at most "
            f"{percent(memory.machine_share)} is expected.{{{{ end }}}}",
            "fleet",
            memory.lasting,
        ),
        Alert(
            "DiskFull",
            "ticket",
            f"""
            node_filesystem_avail_bytes{_DISKS} / node_filesystem_size_bytes{_DISKS}
            < {disk.free_share:g}
            """,
            f"{label('mountpoint')} of {label('instance')} is nearly full",
            f"{PERCENTAGE} of {label('mountpoint')} is free; at least {percent(disk.free_share)} "
            "is expected. On a full disk log lines and downloads of model versions are lost; "
            "frames are still answered.",
            "fleet",
            disk.lasting,
        ),
    ]


def _promotion(thresholds: Thresholds) -> list[Alert]:
    bounds = thresholds.alerts
    lag, aborted, refused = bounds.SyncLagging, bounds.RolloutAborted, bounds.VersionRefused
    differing = f"{_CHAMPION}:max - {_CHAMPION}:min > 0"
    return [
        Alert(
            "SyncFailing",
            "ticket",
            "nuclei_sync_registry_reachable == 0 or sum by (job, instance) "
            "(rate(nuclei_sync_failures_total[3m])) > 0",
            f"Sync at {label('instance')} fails",
            f"For {bounds.SyncFailing.lasting} the registry has not answered it, or its rounds "
            "have ended with an error. What serves goes on serving; nothing can be promoted or "
            "rolled back there.",
            "promotion",
            bounds.SyncFailing.lasting,
        ),
        Alert(
            "SyncLagging",
            "ticket",
            f"time() - ({_LAST_ROUND}) > {seconds(lag.behind):g}\nor {differing}",
            "{{ if $labels.model }}"
            f"Machines serve different champions of {label('model')}{{{{ else }}}}"
            f"Sync at {label('instance')} is behind the registry{{{{ end }}}}",
            "{{ if $labels.model }}"
            f"For {lag.lasting} sync processes have served versions of {label('model')} that are "
            f"{VALUE} apart as champion: callers get answers of different versions.{{{{ else }}}}"
            f"Its last round without a failure was {DURATION} ago; at most {lag.behind} is "
            "expected.{{ end }}",
            "promotion",
            lag.lasting,
        ),
        Alert(
            "ChampionDiffers",
            "ticket",
            f"""
            nuclei_champion_version != on (model) group_left () {_CHAMPION}:max
            unless on (model) {differing}
            """,
            f"{label('instance')} answers for {label('model')} with another version than sync set",
            f"For {bounds.ChampionDiffers.lasting} the gateway has taken {label('model')} to mean "
            f"version {VALUE}, and sync another one.",
            "promotion",
            bounds.ChampionDiffers.lasting,
        ),
        Alert(
            "RolloutAborted",
            "ticket",
            f"""
            {events("nuclei_rollout_aborts_total", aborted.window, "model")}
            or
            {_by_family(events("nuclei_sync_aborted_rollouts_total", aborted.window, "model"))}
            """,
            f"A challenger of {label('model')} was aborted",
            f"In the last {aborted.window} it left its bounds, or could not be served. The "
            "champion answers everybody.",
            "promotion",
        ),
        Alert(
            "VersionRefused",
            "ticket",
            _by_family(events("nuclei_sync_refused_versions_total", refused.window, "model")),
            f"A version of {label('model')} was refused",
            f"In the last {refused.window} sync could not load a version, or it did not answer as "
            "its gates had seen. The champion of before goes on answering.",
            "promotion",
        ),
    ]


def champions() -> list[Recording]:
    """The version that sync processes set as champion of a family: the least and the greatest."""
    series = _by_family("nuclei_sync_champion_version")
    return [
        Recording(f"{_CHAMPION}:{each}", f"{each} by (model) ({series})") for each in ("min", "max")
    ]


def _by_family(vector: str) -> str:
    """Name models as gateways do: by the family, `mask_rcnn`, not `nuclei-mask-rcnn`."""
    family = f'label_replace({vector}, "model", "$1", "model", "nuclei-(.*)")'
    return f'label_replace({family}, "model", "${{1}}_$2", "model", "(.*)-(.*)")'


def _quality(thresholds: Thresholds) -> list[Alert]:
    bounds = thresholds.alerts
    drift, empty = bounds.QualityDrift, bounds.EmptyFrames
    doubtful, score = bounds.DoubtfulFrames, bounds.EstimatedScoreLow
    series = "job, instance, model, version, group"
    return [
        Alert(
            "QualityDrift",
            "ticket",
            f"""
            max by (model, version, group, feature) (
              nuclei_quality_drift / nuclei_quality_drift_threshold
              and on ({series}) nuclei_quality_drift_window_frames >= {drift.least_frames}
              and on ({series}) rate(nuclei_quality_frames_total[1h]) > 0
            ) > 1
            """,
            f"Frames differ from what {label('model')} {label('version')} was validated on: "
            f"{label('feature')}",
            f"For {drift.lasting} the distribution of {label('feature')} over the newest "
            f"{label('group')} frames has been {VALUE} times as far from the validation images as "
            "chance explains (population stability index over its threshold).",
            "quality",
            drift.lasting,
        ),
        Alert(
            "EmptyFrames",
            "ticket",
            _share(
                "nuclei_quality_empty_frames_total",
                "model, version",
                empty.window,
                f"> {empty.share:g}",
                empty.least_frames,
            ),
            f"{label('model')} {label('version')} finds nothing in many frames",
            f"{PERCENTAGE} of the frames of the last {empty.window} have no nucleus; at most "
            f"{percent(empty.share)} are expected.",
            "quality",
            empty.lasting,
        ),
        Alert(
            "DoubtfulFrames",
            "ticket",
            _share(
                "nuclei_quality_doubtful_frames_total",
                "model, version, kind",
                doubtful.window,
                f"> {doubtful.share:g}",
                doubtful.least_frames,
            ),
            f"Many frames are doubtful: {label('kind')}",
            f"{PERCENTAGE} of the frames of {label('model')} {label('version')} in the last "
            f"{doubtful.window} have a warning about {label('kind')}; at most "
            f"{percent(doubtful.share)} are expected.",
            "quality",
            doubtful.lasting,
        ),
        Alert(
            "EstimatedScoreLow",
            "ticket",
            f"""
            sum by (model, version) (increase({_SCORE}_sum[{score.window}]))
            / (
              sum by (model, version) (increase({_SCORE}_count[{score.window}]))
              >= {score.least_frames}
            )
            < {score.score:g}
            """,
            f"{label('model')} {label('version')} expects poor results",
            f"The mean estimated score of the frames of the last {score.window} is {VALUE}; at "
            f"least {score.score:g} is expected (DSB score, 0 to 1).",
            "quality",
            score.lasting,
        ),
    ]


def _share(some: str, by: str, window: str, bound: str, least: int) -> str:
    frames = f"sum by (model, version) (increase(nuclei_quality_frames_total[{window}]))"
    return f"""
        sum by ({by}) (increase({some}[{window}]))
        / on (model, version) group_left () ({frames} >= {least}) {bound}
    """

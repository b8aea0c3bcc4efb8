"""Service: is it up, is it fast, and where does the time go?"""

from monitoring.boards.choices import (
    ANSWERED,
    GATEWAYS,
    INSTANCE,
    MODEL,
    PROTOCOL,
    PROTOCOLS,
    REQUESTS,
    VERSION,
)
from monitoring.inhibitions import UNEXPLAINED
from monitoring.panels import Dashboard, Kind, Limit, Panel, Query, Row, Source, Unit
from monitoring.promql import mean, quantile, rate, total
from monitoring.thresholds import Thresholds, seconds

# Recorded by monitoring.objectives, for each window.
FAILURES = "job:nuclei_failures_per_request:ratio_rate"
SLOW = "job_size:nuclei_slow_answers_per_answer:ratio_rate"
SECONDS = "nuclei_request_seconds"
COUNT = f"{SECONDS}_count"
# File systems that can fill up by themselves: not of memory, and no image of a container.
DISKS = '{fstype!~"tmpfs|ramfs|squashfs|overlay"}'
# The longest time that a frame is given.
LONGEST_S = 300.0


def _now(thresholds: Thresholds) -> Row:
    short = thresholds.burn_rates.fast.short
    return Row(
        "Now",
        (
            Panel(
                "Gateways up",
                "How many gateways does Prometheus reach?",
                (Query('sum(up{job="gateway"})', "up"),),
                Unit.COUNT,
                Kind.STAT,
                highest=1000,
                width=4,
                height=4,
            ),
            Panel(
                "Alerts firing",
                "How many alerts fire now that no other explains? They link their runbooks.",
                (Query(UNEXPLAINED, "firing"),),
                Unit.COUNT,
                Kind.STAT,
                highest=100,
                width=4,
                height=4,
            ),
            Panel(
                "Frames answered",
                "How many frames are answered each second?",
                (Query(total(rate(COUNT, ANSWERED)), "answered"),),
                Unit.FRAMES_PER_SECOND,
                Kind.STAT,
                highest=10_000,
                width=4,
                height=4,
            ),
            Panel(
                "Failed",
                "Which share of the frames fails through a fault of the service?",
                (Query(f"{FAILURES}{short}", "failed"),),
                Unit.SHARE,
                Kind.STAT,
                highest=1,
                limit=Limit(1 - thresholds.availability.objective),
                width=4,
                height=4,
            ),
            Panel(
                "95 % of frames within",
                "How long do all but the slowest 5 % of the answered frames take?",
                (Query(quantile(0.95, SECONDS, ANSWERED), "95 %"),),
                Unit.SECONDS,
                Kind.STAT,
                highest=LONGEST_S,
                width=4,
                height=4,
            ),
            Panel(
                "Probe",
                "Was the last frame of `nuclei probe` answered rightly?",
                (Query("min(nuclei_probe_up)", "answered rightly"),),
                Unit.YES_NO,
                Kind.STAT,
                highest=1,
                width=4,
                height=4,
            ),
        ),
    )


TRAFFIC = Row(
    "Traffic",
    (
        Panel(
            "Frames by protocol",
            "How many frames arrive by which protocol, whatever became of them?",
            (Query(total(rate(COUNT, REQUESTS), "protocol"), "{{protocol}}"),),
            Unit.FRAMES_PER_SECOND,
            highest=10_000,
            stacked=True,
        ),
        Panel(
            "Frames by model and version",
            "Which versions answer?",
            (Query(total(rate(COUNT, ANSWERED), "model", "version"), "{{model}} {{version}}"),),
            Unit.FRAMES_PER_SECOND,
            leads_to="promotion",
            highest=10_000,
            stacked=True,
        ),
        Panel(
            "Frames by size",
            "Of which size are the frames: small up to 0.5 megapixel, medium up to 4.5?",
            (Query(total(rate(COUNT, ANSWERED), "size"), "{{size}}"),),
            Unit.FRAMES_PER_SECOND,
            highest=10_000,
            stacked=True,
        ),
        Panel(
            "Bytes",
            "How much is transferred: frames in, results out?",
            (
                Query(
                    total(rate("nuclei_transferred_bytes_total", PROTOCOLS), "direction"),
                    "{{direction}}",
                ),
            ),
            Unit.BYTES_PER_SECOND,
            highest=1e11,
            width=12,
        ),
        Panel(
            "Nuclei",
            "How many nuclei are found each second?",
            (Query(total(rate("nuclei_counted_total", REQUESTS), "model"), "{{model}}"),),
            Unit.NUCLEI_PER_SECOND,
            highest=1e7,
            width=12,
        ),
    ),
)

ERRORS = Row(
    "Errors",
    (
        Panel(
            "Frames without a result, by code",
            "What became of the frames that were not answered? SKIPPED is the stream's policy.",
            (Query(total(rate(COUNT, f'{REQUESTS},code!="OK"'), "code"), "{{code}}"),),
            Unit.FRAMES_PER_SECOND,
            highest=10_000,
            stacked=True,
            width=12,
        ),
        Panel(
            "Refused before any work, by reason",
            "What is it that runs out: places for frames, memory, a caller's share, streams?",
            (
                Query(
                    total(rate("nuclei_rejected_total", PROTOCOLS), "reason"),
                    "{{reason}}",
                ),
            ),
            Unit.PER_SECOND,
            highest=10_000,
            stacked=True,
            width=12,
        ),
    ),
)


def _objectives(thresholds: Thresholds) -> Row:
    rates = thresholds.burn_rates
    windows = {
        window: None
        for each in (rates.fast, rates.slow, rates.ticket)
        for window in (each.short, each.long)
    }
    failing, slow = (
        # What the queries divide by, without the rest of a subtraction of binary fractions.
        float(f"{1 - part.objective:.6g}")
        for part in (thresholds.availability, thresholds.latency)
    )
    bounds = ", ".join(f"{size} {bound:g} s" for size, bound in thresholds.latency.seconds)
    return Row(
        "Objectives",
        (
            Panel(
                "Failing frames: how fast the budget burns",
                "How many times faster than the objective of availability allows do frames fail, "
                "over each window of the alerts? At the line somebody is called.",
                tuple(Query(f"{FAILURES}{each} / {failing:g}", each) for each in windows),
                Unit.RATIO,
                highest=1 / failing,
                limit=Limit(rates.fast.factor),
                width=12,
            ),
            Panel(
                "Slow frames: how fast the budget burns",
                "How many times faster than the objective of latency allows do answers come late? "
                f"Late is, by size: {bounds}. At the line somebody is called.",
                (
                    Query(
                        f"{SLOW}{rates.fast.short} / {slow:g}",
                        f"{{{{size}}}}, {rates.fast.short}",
                    ),
                    Query(
                        f"{SLOW}{rates.fast.long} / {slow:g}", f"{{{{size}}}}, {rates.fast.long}"
                    ),
                ),
                Unit.RATIO,
                highest=1 / slow,
                limit=Limit(rates.fast.factor),
                width=12,
            ),
        ),
    )


LATENCY = Row(
    "Latency",
    (
        Panel(
            "Time of an answered frame",
            "How long do frames take? A dot is a frame: follow it to its trace.",
            tuple(
                Query(quantile(q, SECONDS, ANSWERED), f"{q:.0%} within") for q in (0.5, 0.95, 0.99)
            ),
            Unit.SECONDS,
            highest=LONGEST_S,
        ),
        Panel(
            "95 % of frames within, by protocol",
            "Is one protocol slower?",
            (Query(quantile(0.95, SECONDS, ANSWERED, "protocol"), "{{protocol}}"),),
            Unit.SECONDS,
            highest=LONGEST_S,
        ),
        Panel(
            "95 % of frames within, by size",
            "Is each class of sizes within its objective?",
            (Query(quantile(0.95, SECONDS, ANSWERED, "size"), "{{size}}"),),
            Unit.SECONDS,
            highest=LONGEST_S,
        ),
        Panel(
            "95 % of frames within, by model and version",
            "Is one version slower?",
            (
                Query(
                    quantile(0.95, SECONDS, ANSWERED, "model", "version"),
                    "{{model}} {{version}}",
                ),
            ),
            Unit.SECONDS,
            leads_to="triton",
            highest=LONGEST_S,
            width=12,
        ),
        Panel(
            "Times of answered frames",
            "Are there groups of fast and slow frames that a quantile hides?",
            (Query(total(rate(f"{SECONDS}_bucket", ANSWERED), "le"), "{{le}}"),),
            Unit.SECONDS,
            Kind.HEATMAP,
            highest=10_000,
            width=12,
        ),
    ),
)

STAGES = Row(
    "Where the time goes",
    (
        Panel(
            "Mean time of each step",
            "Which step does an answered frame spend its time in? `wait` is for its turn.",
            (Query(mean("nuclei_stage_seconds", REQUESTS, "stage"), "{{stage}}"),),
            Unit.SECONDS,
            leads_to="triton",
            highest=LONGEST_S,
            stacked=True,
            width=12,
        ),
        Panel(
            "95 % of steps within",
            "Which step makes slow frames slow?",
            (Query(quantile(0.95, "nuclei_stage_seconds", REQUESTS, "stage"), "{{stage}}"),),
            Unit.SECONDS,
            highest=LONGEST_S,
            width=12,
        ),
    ),
)


def _saturation(thresholds: Thresholds) -> Row:
    bounds = thresholds.alerts
    return Row(
        "Saturation",
        (
            Panel(
                "Waiting frames",
                "How many frames wait for their turn? Beyond the line the queue grows.",
                (
                    Query(
                        f"nuclei_frames_in_flight{{{GATEWAYS}}}"
                        f" - nuclei_frames_in_work{{{GATEWAYS}}}",
                        "waiting at {{instance}}",
                    ),
                    Query(f"nuclei_frames_in_work{{{GATEWAYS}}}", "in work at {{instance}}"),
                ),
                Unit.COUNT,
                highest=10_000,
                limit=Limit(bounds.QueueGrowing.waiting_frames),
            ),
            Panel(
                "Memory",
                "How much memory does a gateway use, and how much is set aside for frames?",
                (
                    Query(f"process_resident_memory_bytes{{{GATEWAYS}}}", "used by {{instance}}"),
                    Query(f"nuclei_in_flight_bytes{{{GATEWAYS}}}", "for frames of {{instance}}"),
                ),
                Unit.BYTES,
                highest=1e12,
                limit=Limit(bounds.MemoryHigh.gateway_bytes),
            ),
            Panel(
                "Processor",
                "How many cores does a gateway keep busy?",
                (Query(rate("process_cpu_seconds_total", GATEWAYS), "{{instance}}"),),
                Unit.CORES,
                highest=1024,
            ),
            Panel(
                "Files and threads",
                "Does a gateway leak file descriptors or threads?",
                (
                    Query(f"process_open_fds{{{GATEWAYS}}}", "files of {{instance}}"),
                    Query(f"process_threads{{{GATEWAYS}}}", "threads of {{instance}}"),
                ),
                Unit.COUNT,
                lowest=1,
                highest=1e6,
            ),
            Panel(
                "Silent connections ended",
                "Does somebody open connections and say nothing?",
                (Query(rate("nuclei_connections_ended_total", GATEWAYS), "{{instance}}"),),
                Unit.PER_SECOND,
                highest=10_000,
            ),
            Panel(
                "Free space of the disks",
                "Will a disk be full soon?",
                (
                    Query(
                        f"node_filesystem_avail_bytes{DISKS} / node_filesystem_size_bytes{DISKS}",
                        "{{instance}} {{mountpoint}}",
                    ),
                ),
                Unit.SHARE,
                highest=1,
                limit=Limit(bounds.DiskFull.free_share, below=True),
            ),
            Panel(
                "Memory of the machines",
                "Is the machine out of memory soon?",
                (
                    Query(
                        "1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes",
                        "{{instance}}",
                    ),
                ),
                Unit.SHARE,
                highest=1,
                limit=Limit(bounds.MemoryHigh.machine_share),
            ),
            Panel(
                "The certificate expires in",
                "When does the gateway need a new certificate? It is read when it starts.",
                (
                    Query(
                        "(nuclei_certificate_not_after_timestamp_seconds - time()) / 86400",
                        "{{instance}}",
                    ),
                ),
                Unit.DAYS,
                highest=10_000,
                limit=Limit(bounds.CertificateExpires.ticket_days, below=True),
                source=Source.CERTIFICATE,
            ),
        ),
    )


def _probe(thresholds: Thresholds) -> Row:
    return Row(
        "Probe",
        (
            Panel(
                "Time of the probe's frame",
                "How long does the same small frame take, minute after minute?",
                (Query("nuclei_probe_seconds_sum / (nuclei_probe_seconds_count > 0)", "mean"),),
                Unit.SECONDS,
                highest=LONGEST_S,
            ),
            Panel(
                "The probe's frames, by code",
                "How is the probe answered?",
                (Query(total(rate("nuclei_probe_frames_total"), "code"), "{{code}}"),),
                Unit.FRAMES_PER_SECOND,
                highest=1000,
            ),
            Panel(
                "Since the probe's last success",
                "For how long has the probe not been answered rightly?",
                (Query("time() - max(nuclei_probe_last_success_timestamp_seconds > 0)", "since"),),
                Unit.SECONDS,
                highest=1e7,
                limit=Limit(seconds(thresholds.alerts.ProbeFailing.silent)),
            ),
        ),
    )


def service(thresholds: Thresholds) -> Dashboard:
    """Is the service up, is it fast, and where does the time go?"""
    return Dashboard(
        "service",
        "Service",
        "Is the service up, is it fast, and where does the time go?",
        (
            _now(thresholds),
            _objectives(thresholds),
            TRAFFIC,
            ERRORS,
            LATENCY,
            STAGES,
            _saturation(thresholds),
            _probe(thresholds),
        ),
        (MODEL, VERSION, PROTOCOL, INSTANCE),
    )

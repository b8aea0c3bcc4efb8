"""Triton: do the models keep up, and which of their steps takes the time?"""

from monitoring.panels import Dashboard, Kind, Limit, Panel, Query, Row, Source, Unit, Variable
from monitoring.promql import rate, ratio, share, total
from monitoring.thresholds import Thresholds

STEP = Variable("step", "Model or step", "label_values(nv_inference_count, model)")
TRITON = Variable("triton", "Triton", 'label_values(up{job="triton"}, instance)')

STEPS = 'model=~"$step",instance=~"$triton"'
SERVERS = 'instance=~"$triton"'
ANSWERED = rate("nv_inference_request_success", STEPS)
LONGEST_US = 300e6


def _mean_us(what: str) -> str:
    """Mean time of a request in one phase, for each step."""
    return ratio(rate(f"nv_inference_{what}_duration_us", STEPS), ANSWERED, "model")


def _requests(thresholds: Thresholds) -> Row:
    return Row(
        "Requests",
        (
            Panel(
                "Tritons up",
                "How many Tritons does Prometheus reach?",
                (Query('sum(up{job="triton"})', "up"),),
                Unit.COUNT,
                Kind.STAT,
                highest=1000,
                width=4,
            ),
            Panel(
                "Inferences",
                "How many tiles does each step compute each second?",
                (Query(total(rate("nv_inference_count", STEPS), "model"), "{{model}}"),),
                Unit.PER_SECOND,
                highest=1e6,
                width=10,
            ),
            Panel(
                "Share of failed requests",
                "Does a step fail, and how: is it rejected, cancelled, or does its backend fail?",
                (
                    Query(
                        share(
                            rate("nv_inference_request_failure", STEPS),
                            f"{ANSWERED} or {rate('nv_inference_request_failure', STEPS)}",
                            "model",
                        ),
                        "{{model}}",
                    ),
                ),
                Unit.SHARE,
                highest=1,
                limit=Limit(thresholds.alerts.TritonInstanceDead.failed_share),
                width=10,
            ),
        ),
    )


REACHED = Row(
    "Reached by the gateways",
    (
        Panel(
            "Tritons known and answering",
            "How many Tritons does each gateway know, and how many say what they serve?",
            (
                Query("nuclei_triton_servers", "known to {{instance}}"),
                Query("nuclei_triton_servers_answering", "answering {{instance}}"),
            ),
            Unit.COUNT,
            highest=1000,
            width=12,
        ),
        Panel(
            "Failed lookups",
            "Do the gateways learn which Tritons are there?",
            (
                Query(
                    total(rate("nuclei_triton_failed_lookups_total"), "instance"),
                    "{{instance}}",
                ),
            ),
            Unit.PER_SECOND,
            highest=1000,
            width=12,
        ),
    ),
)

QUEUE = Row(
    "Queue and batches",
    (
        Panel(
            "Waiting requests",
            "Do requests pile up in front of a step?",
            (Query(total(f"nv_inference_pending_request_count{{{STEPS}}}", "model"), "{{model}}"),),
            Unit.COUNT,
            highest=10_000,
        ),
        Panel(
            "Mean time in the queue",
            "How long does a request wait for an instance of its step?",
            (Query(_mean_us("queue"), "{{model}}"),),
            Unit.MICROSECONDS,
            highest=LONGEST_US,
        ),
        Panel(
            "Mean batch",
            "How many tiles are computed together?",
            (
                Query(
                    ratio(
                        rate("nv_inference_count", STEPS),
                        rate("nv_inference_exec_count", STEPS),
                        "model",
                    ),
                    "{{model}}",
                ),
            ),
            Unit.RATIO,
            lowest=1,
            highest=1024,
        ),
    ),
)

TIMES = Row(
    "Times of the steps",
    (
        Panel(
            "Mean time of a request",
            "Which step takes how long, from its arrival to its answer?",
            (Query(_mean_us("request"), "{{model}}"),),
            Unit.MICROSECONDS,
            leads_to="service",
            highest=LONGEST_US,
        ),
        Panel(
            "Mean time of computing",
            "How long does the network itself take?",
            (Query(_mean_us("compute_infer"), "{{model}}"),),
            Unit.MICROSECONDS,
            highest=LONGEST_US,
        ),
        Panel(
            "Where Triton's time goes",
            "Which part of all requests' time is waiting, copying, computing?",
            tuple(
                Query(total(rate(f"nv_inference_{phase}_duration_us", STEPS)), legend)
                for phase, legend in (
                    ("queue", "queue"),
                    ("compute_input", "input"),
                    ("compute_infer", "compute"),
                    ("compute_output", "output"),
                )
            ),
            Unit.MICROSECONDS_PER_SECOND,
            highest=1e10,
            stacked=True,
        ),
    ),
)

MACHINE = Row(
    "Machine",
    (
        Panel(
            "Processor",
            "How busy is the machine's processor, by Triton's count?",
            (Query(f"nv_cpu_utilization{{{SERVERS}}}", "{{instance}}"),),
            Unit.SHARE,
            highest=1,
            width=12,
        ),
        Panel(
            "Memory",
            "How much memory of the machine is used, and how much is there?",
            (
                Query(f"nv_cpu_memory_used_bytes{{{SERVERS}}}", "used at {{instance}}"),
                Query(f"nv_cpu_memory_total_bytes{{{SERVERS}}}", "there at {{instance}}"),
            ),
            Unit.BYTES,
            lowest=1e6,
            highest=1e14,
            width=12,
        ),
    ),
)

GPU = Row(
    "GPU",
    (
        Panel(
            "GPU busy",
            "Is the GPU the bottleneck?",
            (Query(f"nv_gpu_utilization{{{SERVERS}}}", "{{gpu_uuid}}"),),
            Unit.SHARE,
            highest=1,
            source=Source.GPU,
        ),
        Panel(
            "GPU memory",
            "Is there room for another model?",
            (
                Query(f"nv_gpu_memory_used_bytes{{{SERVERS}}}", "used of {{gpu_uuid}}"),
                Query(f"nv_gpu_memory_total_bytes{{{SERVERS}}}", "there of {{gpu_uuid}}"),
            ),
            Unit.BYTES,
            highest=1e13,
            source=Source.GPU,
        ),
        Panel(
            "GPU power",
            "What does it draw, and what may it?",
            (
                Query(f"nv_gpu_power_usage{{{SERVERS}}}", "drawn by {{gpu_uuid}}"),
                Query(f"nv_gpu_power_limit{{{SERVERS}}}", "limit of {{gpu_uuid}}"),
            ),
            Unit.WATTS,
            highest=5000,
            source=Source.GPU,
        ),
    ),
)


def triton(thresholds: Thresholds) -> Dashboard:
    """Do the models keep up, and which of their steps takes the time?"""
    return Dashboard(
        "triton",
        "Triton",
        "Do the models keep up, and which of their steps takes the time?",
        (_requests(thresholds), REACHED, QUEUE, TIMES, MACHINE, GPU),
        (STEP, TRITON),
    )

"""Fleet: are there enough gateways, do they share the work, and what does it cost?"""

from monitoring.boards.choices import GATEWAYS, INSTANCE, MODEL
from monitoring.panels import Dashboard, Panel, Query, Row, Source, Unit, Variable
from monitoring.promql import quantile, rate, total

PRICE = Variable("price", "Dollars per gateway and hour", "", every="1")
OF_CALLERS = 'model=~"$model",instance=~"$instance",protocol!="probe",code="OK"'
FRAMES = rate("nuclei_request_seconds_count", OF_CALLERS)

REPLICAS = Row(
    "Replicas",
    (
        Panel(
            "Replicas up",
            "How many of each part of the service does Prometheus reach?",
            (Query('sum by (job) (up{job=~"gateway|triton|sync|probe"})', "{{job}}"),),
            Unit.COUNT,
            highest=1000,
        ),
        Panel(
            "Versions of the software",
            "Do all gateways run the same?",
            (Query("count by (version, python) (nuclei_build_info)", "{{version}} {{python}}"),),
            Unit.COUNT,
            lowest=1,
            highest=1000,
        ),
        Panel(
            "Age of the gateways",
            "Which gateways were started anew?",
            (
                Query(
                    f"time() - process_start_time_seconds{{{GATEWAYS}}}",
                    "{{instance}}",
                ),
            ),
            Unit.SECONDS,
            highest=1e9,
        ),
    ),
)

WORK = Row(
    "Work of each gateway",
    (
        Panel(
            "Frames",
            "Do the gateways share the work?",
            (Query(total(FRAMES, "instance"), "{{instance}}"),),
            Unit.FRAMES_PER_SECOND,
            highest=10_000,
            stacked=True,
        ),
        Panel(
            "95 % of frames within",
            "Is one gateway slower than the others?",
            (
                Query(
                    quantile(0.95, "nuclei_request_seconds", OF_CALLERS, "instance"),
                    "{{instance}}",
                ),
            ),
            Unit.SECONDS,
            leads_to="service",
            highest=300,
        ),
        Panel(
            "Refused before any work",
            "Are there too few gateways?",
            (
                Query(
                    total(rate("nuclei_rejected_total", 'instance=~"$instance"'), "instance"),
                    "{{instance}}",
                ),
            ),
            Unit.PER_SECOND,
            highest=10_000,
        ),
    ),
)

AUTOSCALER = Row(
    "Autoscaler",
    (
        Panel(
            "Replicas wanted and there",
            "Does the autoscaler get what it asks for, and is it at its limit?",
            (
                Query(
                    "kube_horizontalpodautoscaler_status_desired_replicas",
                    "{{horizontalpodautoscaler}} wanted",
                ),
                Query(
                    "kube_horizontalpodautoscaler_status_current_replicas",
                    "{{horizontalpodautoscaler}} there",
                ),
                Query(
                    "kube_horizontalpodautoscaler_spec_min_replicas",
                    "{{horizontalpodautoscaler}} least",
                ),
                Query(
                    "kube_horizontalpodautoscaler_spec_max_replicas",
                    "{{horizontalpodautoscaler}} most",
                ),
            ),
            Unit.COUNT,
            highest=1000,
            source=Source.KUBERNETES,
        ),
        Panel(
            "Pods of the deployments",
            "Are the pods that should be there available?",
            (
                Query("kube_deployment_spec_replicas", "{{deployment}} wanted"),
                Query("kube_deployment_status_replicas_available", "{{deployment}} available"),
            ),
            Unit.COUNT,
            highest=1000,
            source=Source.KUBERNETES,
        ),
        Panel(
            "Containers restarted in the last hour",
            "Does a container end again and again?",
            (
                Query(
                    "sum by (container) (increase(kube_pod_container_status_restarts_total[1h]))",
                    "{{container}}",
                ),
            ),
            Unit.COUNT,
            highest=1000,
            source=Source.KUBERNETES,
        ),
    ),
)

COST = Row(
    "Cost",
    (
        Panel(
            "Cost of a million frames",
            "What would a million frames cost at this rate and the price given above?",
            (
                Query(
                    f"$price * sum(up{{{GATEWAYS}}}) / 3600 / ({total(FRAMES)} > 0) * 1e6",
                    "a million frames",
                ),
            ),
            Unit.DOLLARS,
            highest=1e7,
            width=12,
        ),
        Panel(
            "Frames per gateway and hour",
            "How well are the gateways used?",
            (
                Query(
                    f"3600 * {total(FRAMES)} / (sum(up{{{GATEWAYS}}}) > 0)",
                    "frames",
                ),
            ),
            Unit.COUNT,
            highest=1e8,
            width=12,
        ),
    ),
)


def fleet() -> Dashboard:
    """Are there enough gateways, do they share the work, and what does it cost?"""
    return Dashboard(
        "fleet",
        "Fleet",
        "Are there enough gateways, do they share the work, and what does it cost?",
        (REPLICAS, WORK, AUTOSCALER, COST),
        (MODEL, INSTANCE, PRICE),
    )

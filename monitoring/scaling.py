"""What the autoscalers of Kubernetes read: how many pods the waiting work asks for.

Each recording is a number of pods, so the autoscalers' own target is 1 and every threshold stands
in one file. None has a value while what it is computed from is missing: then nothing is scaled down
(docs/kubernetes.md#scaling). While Triton answers and has no work, its queue is 0, not missing.

Sums are by namespace, as external metrics of Kubernetes are; outside of it there is one without.
"""

from collections.abc import Iterator

from monitoring.rule import Recording
from monitoring.thresholds import Thresholds

# The step of a graph that runs the network: unet_network.3.
_NETWORK = 'model=~".+_network[.].+"'
# Stages of a frame in the gateway that are work of its own cores: not waiting, not the network.
_WORK = 'stage!~"wait|infer"'


def scaling_rules(thresholds: Thresholds) -> Iterator[Recording]:
    """The recordings, in the order in which one needs the other."""
    scaling = thresholds.scaling
    triton, gateway, window = scaling.triton, scaling.gateway, scaling.window
    queued = _rate(f"nv_inference_queue_duration_us{{{_NETWORK}}}", window)
    executed = _rate(f"nv_inference_request_success{{{_NETWORK}}}", window)
    yield Recording(
        "namespace:nv_inference_queue_seconds_per_execution:rate",
        f"{queued} / 1e6 / ({executed} > 0)\nor {queued} * {executed} * 0",
    )
    computed, succeeded, executions = (
        f"rate(nv_inference_{counter}{{{_NETWORK}}}[{window}])"
        for counter in ("compute_infer_duration_us", "request_success", "exec_count")
    )
    # A batch is executed once, and its time counted for each of its requests.
    yield Recording(
        "namespace:nv_inference_busy_instances:rate",
        f"sum by (namespace) ({computed} / ({succeeded} > 0) * {executions}) / 1e6\n"
        f"or sum by (namespace) ({computed} * {succeeded} * {executions}) * 0",
    )
    yield Recording(
        "namespace:nuclei_frames_waiting:sum",
        f"sum by (namespace) (avg_over_time(nuclei_frames_in_flight[{window}])"
        f" - avg_over_time(nuclei_frames_in_work[{window}]))",
    )
    yield Recording(
        "namespace:triton_pods_wanted_by_work:count",
        f"namespace:nv_inference_busy_instances:rate / {triton.busy_instances:g}",
    )
    # Only pods that have their network loaded: those that start must not multiply what is wanted.
    loaded = (
        "count by (namespace) (count by (namespace, instance) "
        f"(nv_inference_request_success{{{_NETWORK}}}))"
    )
    yield Recording(
        "namespace:triton_pods_wanted_by_queue:count",
        f"namespace:nv_inference_queue_seconds_per_execution:rate * {loaded}"
        f" / {triton.queue_seconds:g}",
    )
    yield Recording(
        "namespace:triton_pods_wanted_by_waiting:count",
        f"namespace:nuclei_frames_waiting:sum / {triton.waiting_frames:g}",
    )
    held = f"sum by (namespace) (avg_over_time(nuclei_frames_in_flight[{window}]))"
    yield Recording(
        "namespace:gateway_pods_wanted_by_held:count", f"{held} / {gateway.held_frames:g}"
    )
    work = _rate(f"nuclei_stage_seconds_sum{{{_WORK}}}", window)
    # A gateway that has had no frame yet has no series of stages.
    yield Recording(
        "namespace:gateway_pods_wanted_by_work:count",
        f"({work} or {held} * 0) / {gateway.work_seconds:g}",
    )


def _rate(counter: str, window: str) -> str:
    return f"sum by (namespace) (rate({counter}[{window}]))"

"""What several tests of monitoring read."""

import re
import subprocess
from collections.abc import Callable

import pytest
from prometheus_client.metrics import MetricWrapperBase

import nuclei.probe
import serving.gateway.metrics
import serving.promotion.metrics
from monitoring.rules import FOLDER
from serving.gateway.quality import DriftWindows
from tests.prerequisites import require_programs

INSTALL = "apt install prometheus prometheus-alertmanager"

# What Triton 2.51, the node exporter, Prometheus and Alertmanager measure, of what is asked for.
FOREIGN = {
    *("nv_inference_request_success", "nv_inference_request_failure"),
    *("nv_inference_pending_request_count", "nv_inference_queue_duration_us"),
    *("nv_inference_compute_infer_duration_us", "nv_inference_exec_count"),
    *("node_memory_MemAvailable_bytes", "node_memory_MemTotal_bytes"),
    *("node_filesystem_avail_bytes", "node_filesystem_size_bytes"),
    *("process_resident_memory_bytes", "process_start_time_seconds"),
    "alertmanager_notifications_failed_total",
}
METRIC = re.compile(r"(?<![\w:.])(?:nuclei|nv|node|process|alertmanager)_\w+")


@pytest.fixture(scope="session")
def series() -> frozenset[str]:
    """The names of all series that the rules may ask for, as the code declares the metrics."""
    suffixes = {
        "counter": ("_total",),
        "gauge": ("",),
        "histogram": ("_bucket", "_sum", "_count", ""),
        "info": ("_info",),
    }
    declared = [
        metric
        for module in (nuclei.probe, serving.gateway.metrics, serving.promotion.metrics)
        for value in vars(module).values()
        for metric in (value.values() if isinstance(value, dict) else [value])
        if isinstance(metric, MetricWrapperBase)
    ]
    return frozenset(FOREIGN) | {
        family.name + suffix
        for collector in (*declared, DriftWindows())
        for family in collector.collect()
        for suffix in suffixes[family.type]
    }


@pytest.fixture(scope="session")
def tool() -> Callable[..., str]:
    """Runs promtool or amtool in the folder of Prometheus' configuration; its output."""
    require_programs("promtool", "amtool", install=INSTALL)

    def run(*command: str, expected: int = 0) -> str:
        run = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
        assert run.returncode == expected, run.stdout + run.stderr
        return run.stdout if expected == 0 else run.stderr

    return run

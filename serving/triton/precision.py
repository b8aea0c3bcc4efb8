"""In which precision models compute, as our backend says in Triton's metrics."""

import httpx
from prometheus_client.parser import text_string_to_metric_families

METRIC = "nuclei_model_precision"
TIMEOUT_S = 1.0


async def computed_precisions(url: str) -> dict[str, str]:
    """The precision of each model that runs on a processor, by the name of the model.

    None is known where Triton does not answer in time, or runs its own onnxruntime backend.

    Args:
        url: of Triton's metrics; empty when it is not known.
    """
    if not url:
        return {}
    try:
        # Without the proxy of the environment: it is Triton's host.
        async with httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as http:
            text = (await http.get(url)).text
    except httpx.HTTPError:
        return {}
    lines = "\n".join(line for line in text.splitlines() if line.startswith(METRIC))
    return {
        sample.labels["model"]: sample.labels["precision"]
        for family in text_string_to_metric_families(lines + "\n")
        for sample in family.samples
    }

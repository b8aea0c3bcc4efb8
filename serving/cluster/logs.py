"""What the containers of a deployment wrote."""

from collections.abc import Iterator

from nuclei.errors import InvalidData
from serving.cluster.api import Cluster
from serving.cluster.objects import SELECTOR, component, containers


def read_logs(
    cluster: Cluster,
    namespace: str,
    wanted: str | None,
    since_s: int | None,
    lines: int,
    previous: bool,
) -> Iterator[tuple[str, str]]:
    """The logs of a deployment, container by container.

    Args:
        cluster: of the deployment.
        namespace: of the deployment.
        wanted: the component; None for all.
        since_s: only what is younger, seconds; None for all that is kept.
        lines: at most of each, the last ones.
        previous: of the run before the present one.

    Yields:
        Pod and container, and the text; containers without such a log are left out.

    Raises:
        NotPermitted: they may not be read.
        ClusterUnavailable: the cluster does not answer.
    """
    for pod in cluster.items("v1", "Pod", namespace, SELECTOR):
        if wanted is not None and component(pod) != wanted:
            continue
        name = pod["metadata"]["name"]
        for one in containers(pod):
            try:
                text = cluster.log(name, one["name"], namespace, since_s, lines, previous)
            except InvalidData:  # it has not run (before)
                continue
            yield f"{name}/{one['name']}", text

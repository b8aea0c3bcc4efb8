"""Promotions in a cluster: a version is the champion once every pod serves it, or not at all."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

from nuclei.errors import (
    ClusterUnavailable,
    Conflict,
    DeadlineExceeded,
    EngineUnavailable,
    NucleiError,
    RegistryUnavailable,
    VersionRefused,
)
from serving.cluster.api import Cluster
from serving.cluster.status import serving_pods, sync_of
from serving.promotion import changes
from serving.promotion.state import ModelState, read_state
from serving.registry import Registry

POLL_S = 1.0


def promote(
    cluster: Cluster, namespace: str, registry: Registry, model: str, version: int, why: str
) -> None:
    """Make a version the champion, unless no pod could serve it.

    Raises:
        EngineUnavailable: there is no Triton pod in the namespace.
        NucleiError: as `serving.promotion.changes.promote`, and as the cluster's calls.
    """
    if not serving_pods(cluster, namespace):
        raise EngineUnavailable(
            f"namespace {namespace} has no Triton pod that could serve it: see "
            "`nuclei deploy status`"
        )
    changes.promote(registry, model, version, why=why)


def follow(
    cluster: Cluster,
    namespace: str,
    registry: Registry,
    model: str,
    version: int,
    longest_s: float,
) -> Iterator[str]:
    """What is still lacking until every Triton pod serves a version as its champion.

    Pods that start meanwhile are waited for as well, those that end are not.

    Args:
        cluster: of the pods.
        namespace: of the pods.
        registry: in which their sync processes say what they serve.
        model: name of the registered model or of its family.
        version: was promoted.
        longest_s: how long this may take, seconds.

    Yields:
        One sentence, each time it is another one.

    Raises:
        VersionRefused: a pod could not serve it.
        DeadlineExceeded: it took too long; names the pods that do not serve it.
        Conflict: another version is the champion by now.
        NucleiError: as the calls of the cluster and of the registry.
    """
    end_s = time.monotonic() + longest_s
    shown = None
    while True:
        try:
            doing = _doing(cluster, namespace, read_state(registry, model), version)
        except (ClusterUnavailable, RegistryUnavailable) as error:
            # Says nothing about the version.
            doing = str(error)
        if doing is None:
            return
        if doing != shown:
            yield doing
        shown = doing
        if time.monotonic() >= end_s:
            raise DeadlineExceeded(f"after {longest_s:g} s {doing}")
        time.sleep(POLL_S)


def take_back(registry: Registry, model: str, version: int, error: NucleiError) -> NucleiError:
    """Make the champion before champion again, unless somebody else has moved it meanwhile.

    Args:
        registry: of the model.
        model: name of the registered model or of its family.
        version: was promoted in vain.
        error: why.

    Returns:
        The error, which also says what is the champion now.
    """
    try:
        champion = read_state(registry, model).champion
        if champion == version:
            champion = changes.rollback(registry, model, str(error))[1]
    except NucleiError as why:
        return type(error)(f"{error}; and it could not be taken back: {why}")
    return type(error)(f"{error}; the champion is {champion or 'none'}")


def _doing(cluster: Cluster, namespace: str, state: ModelState, version: int) -> str | None:
    """What is lacking; None once nothing is."""
    refused = state.find(version).refused
    if refused is not None:
        raise VersionRefused(f"{state.name} {version} does not serve: {refused}")
    if state.champion != version:
        raise Conflict(f"{state.name} {version} was taken back by somebody else")
    pods, now = serving_pods(cluster, namespace), datetime.now(UTC)
    statuses = {pod: sync_of(state, pod, now) for pod in pods}
    lacking = [pod for pod, one in statuses.items() if one is None or one.champion != version]
    if not pods:
        return "there is no Triton pod"
    if not lacking:
        return None
    serving = len(pods) - len(lacking)
    return f"{serving} of {len(pods)} pods serve it; not yet: {', '.join(lacking[:3])}"

"""Promotions that end only when every pod of a cluster serves the version."""

from collections.abc import Iterator

import pytest

from nuclei.errors import Conflict, DeadlineExceeded, EngineUnavailable, VersionRefused
from serving.cluster.api import Cluster
from serving.cluster.promotion import follow, promote, take_back
from serving.promotion.changes import promote as promote_in_registry
from serving.promotion.changes import refuse
from tests.serving.cluster.api_server import ApiServer, Refusal
from tests.serving.cluster.pods import pod, report
from tests.serving.promotion.registries import MODEL, Filled


@pytest.fixture
def pods(server: ApiServer, filled: Filled) -> list[str]:
    """Two Triton pods that serve version 1, and one that ends."""
    promote_in_registry(filled.registry, MODEL, 1)
    names = ["triton-a", "triton-b"]
    for name in names:
        server.add("v1/pods", pod(name))
        report(filled, name, 1)
    ending = pod("triton-old")
    ending["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:05Z"
    server.add("v1/pods", ending)
    return names


def followed(cluster: Cluster, filled: Filled, longest_s: float = 60) -> Iterator[str]:
    return follow(cluster, "nuclei", filled.registry, "unet", 2, longest_s)


def test_every_pod_is_waited_for(
    server: ApiServer, cluster: Cluster, filled: Filled, pods: list[str]
) -> None:
    promote(cluster, "nuclei", filled.registry, "unet", 2, "better")
    assert filled.aliases() == {"champion": 2}
    doings = followed(cluster, filled)
    assert next(doings) == "0 of 2 pods serve it; not yet: triton-a, triton-b"
    report(filled, "triton-a", 2)
    assert next(doings) == "1 of 2 pods serve it; not yet: triton-b"
    # One that starts meanwhile is waited for as well; it has not said anything yet.
    server.add("v1/pods", pod("triton-c", phase="Pending"))
    report(filled, "triton-b", 2)
    assert next(doings) == "2 of 3 pods serve it; not yet: triton-c"
    report(filled, "triton-c", 2)
    assert list(doings) == []


def test_a_timeout_names_the_pods_and_the_champion_comes_back(
    cluster: Cluster, filled: Filled, pods: list[str]
) -> None:
    promote(cluster, "nuclei", filled.registry, "unet", 2, "")
    report(filled, "triton-a", 2)
    with pytest.raises(DeadlineExceeded, match=r"not yet: triton-b") as late:
        list(followed(cluster, filled, 0.01))
    error = take_back(filled.registry, "unet", 2, late.value)
    assert isinstance(error, DeadlineExceeded)
    assert str(error).endswith("the champion is 1")
    assert filled.aliases() == {"champion": 1}
    assert filled.actions()[-1] == ("rollback", 2, 1)


def test_a_version_that_a_pod_cannot_serve_is_refused(
    cluster: Cluster, filled: Filled, pods: list[str]
) -> None:
    promote(cluster, "nuclei", filled.registry, "unet", 2, "")
    refuse(filled.registry, MODEL, 2, "no such backend")
    with pytest.raises(VersionRefused, match="no such backend"):
        list(followed(cluster, filled))


def test_what_somebody_else_promoted_is_left_alone(
    cluster: Cluster, filled: Filled, pods: list[str]
) -> None:
    promote(cluster, "nuclei", filled.registry, "unet", 2, "")
    promote_in_registry(filled.registry, MODEL, 3)
    with pytest.raises(Conflict) as taken:
        list(followed(cluster, filled))
    assert "the champion is 3" in str(take_back(filled.registry, "unet", 2, taken.value))
    assert filled.aliases() == {"champion": 3}


def test_the_first_champion_stays(server: ApiServer, cluster: Cluster, filled: Filled) -> None:
    server.add("v1/pods", pod("triton-a"))
    promote(cluster, "nuclei", filled.registry, "unet", 2, "")
    error = take_back(filled.registry, "unet", 2, DeadlineExceeded("too late"))
    assert "could not be taken back" in str(error)
    assert filled.aliases() == {"champion": 2}


def test_without_a_pod_nothing_is_promoted(cluster: Cluster, filled: Filled) -> None:
    with pytest.raises(EngineUnavailable, match="no Triton pod"):
        promote(cluster, "nuclei", filled.registry, "unet", 2, "")
    assert filled.aliases() == {}


def test_a_cluster_that_is_gone_for_a_while_is_waited_for(
    server: ApiServer, cluster: Cluster, filled: Filled, pods: list[str]
) -> None:
    promote(cluster, "nuclei", filled.registry, "unet", 2, "")
    for name in pods:
        report(filled, name, 2)
    server.refusals.append(Refusal("GET", "pods", 500, "leader is elected"))
    doings = followed(cluster, filled)
    assert "leader is elected" in next(doings)
    server.refusals.clear()
    assert list(doings) == []

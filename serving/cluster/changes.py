"""Changing a cluster: all of the objects or none of them."""

import copy
import difflib
from collections.abc import Iterator, Sequence
from typing import Literal

import yaml

from nuclei.errors import NucleiError
from serving.cluster.api import Cluster
from serving.cluster.objects import Object, named
from serving.cluster.preflight import check

Outcome = Literal["created", "changed", "unchanged"]
# What the cluster writes by itself into each object.
_KEPT_BY_CLUSTER = ("creationTimestamp", "generation", "managedFields", "resourceVersion", "uid")


def differences(cluster: Cluster, items: Sequence[Object], force: bool = False) -> Iterator[str]:
    """What applying the objects would change, as one unified diff for each.

    The cluster itself says what an object would become, with its defaults and who owns what.

    Raises:
        NucleiError: as `apply`; nothing is changed.
    """
    check(cluster, items)
    for item in items:
        present = _present(cluster, item)
        wanted = item if present is None else cluster.apply(item, dry_run=True, force=force)
        before = [] if present is None else _lines(present)
        name = named(item)
        yield "".join(difflib.unified_diff(before, _lines(wanted), f"{name} now", name))


def apply(
    cluster: Cluster, items: Sequence[Object], force: bool = False
) -> list[tuple[Object, Outcome]]:
    """Apply objects: server-side, each field owned by `nuclei-deploy`.

    First the cluster is asked whether it would take each of them. What fails in spite of that is
    undone.

    Args:
        cluster: that is to have them.
        items: in this order.
        force: also take fields that others own.

    Returns:
        What was done with each.

    Raises:
        MissingPrerequisite, RegistryUnavailable: the cluster lacks what the objects need, as
            `serving.cluster.preflight.check` says.
        NotPermitted: they may not be written.
        InvalidData: the cluster refuses one of them; names its fields.
        Conflict: others own some of their fields.
        ClusterUnavailable: it does not answer.
    """
    check(cluster, items)
    before = [_present(cluster, item) for item in items]
    for item in items:
        cluster.apply(item, dry_run=True, force=force)
    # Also the one whose answer got lost.
    begun: list[tuple[Object, Object | None]] = []
    outcomes: list[tuple[Object, Outcome]] = []
    try:
        for item, present in zip(items, before, strict=True):
            begun.append((item, present))
            outcomes.append((item, _outcome(present, cluster.apply(item, force=force))))
    except BaseException as error:
        kept = _undone(cluster, begun)
        if kept and isinstance(error, NucleiError):
            raise type(error)(f"{error}\nand could not be undone: {', '.join(kept)}") from error
        raise
    return outcomes


def _undone(cluster: Cluster, begun: Sequence[tuple[Object, Object | None]]) -> list[str]:
    """Put everything back as it was; returns what could not be."""
    kept = []
    for item, former in reversed(begun):
        try:
            _put_back(cluster, former, _present(cluster, item))
        except NucleiError:
            kept.append(named(item))
    return kept


def _put_back(cluster: Cluster, former: Object | None, now: Object | None) -> None:
    if former is None:
        if now is not None:
            cluster.delete(now)
    elif now is not None and _essence(former) != _essence(now):
        restored = _essence(former)
        # Whoever changes it at this moment is not overruled.
        restored["metadata"]["resourceVersion"] = now["metadata"].get("resourceVersion")
        cluster.replace(restored)


def _present(cluster: Cluster, item: Object) -> Object | None:
    metadata = item["metadata"]
    return cluster.get(
        item["apiVersion"], item["kind"], metadata["name"], metadata.get("namespace")
    )


def _outcome(before: Object | None, now: Object) -> Outcome:
    if before is None:
        return "created"
    return "unchanged" if _essence(before) == _essence(now) else "changed"


def _essence(item: Object) -> Object:
    """An object without what the cluster keeps in it."""
    item = copy.deepcopy(item)
    item.pop("status", None)
    for name in _KEPT_BY_CLUSTER:
        item["metadata"].pop(name, None)
    return item


def _lines(item: Object) -> list[str]:
    return yaml.safe_dump(_essence(item), sort_keys=True).splitlines(keepends=True)

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


def differences(cluster: Cluster, items: Sequence[Object]) -> Iterator[str]:
    """What applying the objects would change, as one unified diff for each.

    The cluster itself says what an object would become, with its defaults and who owns what.

    Raises:
        NucleiError: as `apply`; the kinds are checked first, nothing is changed.
    """
    check(cluster, items)
    for item in items:
        present = _present(cluster, item)
        wanted = item if present is None else cluster.apply(item, dry_run=True, force=True)
        before = [] if present is None else _lines(present)
        name = named(item)
        yield "".join(difflib.unified_diff(before, _lines(wanted), f"{name} now", name))


def apply(
    cluster: Cluster, items: Sequence[Object], force: bool = False
) -> list[tuple[Object, Outcome]]:
    """Apply objects: server-side, each field owned by `nuclei-deploy`.

    First the cluster is asked whether it would take each of them. What fails in spite of that is
    undone. A namespace that is new is made before it is asked, for it checks nothing without.

    Args:
        cluster: that is to have them.
        items: in this order.
        force: also take fields that others own.

    Returns:
        What was done with each.

    Raises:
        KindMissing, SecretMissing, GpuMissing, RegistryUnavailable: the cluster lacks what the
            objects need.
        NotPermitted: they may not be written.
        InvalidData: the cluster refuses one of them; names its fields.
        Conflict: others own some of their fields.
        ClusterUnavailable: it does not answer.
    """
    check(cluster, items)
    before = [_present(cluster, item) for item in items]
    done: list[tuple[Object, Object | None]] = []
    try:
        for item, present in zip(items, before, strict=True):
            if item["kind"] == "Namespace" and present is None:
                done.append((cluster.apply(item), None))
        for item in items:
            cluster.apply(item, dry_run=True, force=force)
        for item, present in zip(items, before, strict=True):
            if item["kind"] != "Namespace" or present is not None:
                done.append((cluster.apply(item, force=force), present))
    except BaseException as error:
        kept = _undone(cluster, done)
        if kept and isinstance(error, NucleiError):
            raise type(error)(f"{error}\nand could not be undone: {', '.join(kept)}") from error
        raise
    return [(now, _outcome(present, now)) for now, present in done]


def _undone(cluster: Cluster, done: Sequence[tuple[Object, Object | None]]) -> list[str]:
    """Put everything back as it was; returns what could not be."""
    kept = []
    for now, present in reversed(done):
        try:
            if present is None:
                cluster.delete(now)
            else:
                former = _essence(present)
                # Of now: whoever changed it since then is not overruled.
                former["metadata"]["resourceVersion"] = now["metadata"].get("resourceVersion")
                cluster.replace(former)
        except NucleiError:
            kept.append(named(now))
    return kept


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

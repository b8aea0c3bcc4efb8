"""A Kubernetes cluster, asked and changed here alone: what it refuses becomes an error of ours."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import ResourceNotFoundError
from urllib3.exceptions import HTTPError

from nuclei.errors import (
    ClusterUnavailable,
    Conflict,
    InvalidData,
    NotPermitted,
    Unauthenticated,
)
from nuclei.quoting import listed, printable, sentence
from serving.cluster.objects import Object, named

FIELD_MANAGER = "nuclei-deploy"
ANSWER_S = 30.0
_KUBECONFIG = (
    "name one with KUBECONFIG, and its context with --context (`kubectl config get-contexts`)"
)


class Cluster:
    """A cluster that answered.

    Attributes:
        host: address of its API server.
    """

    def __init__(self, context: str | None = None) -> None:
        """Connect as the kubeconfig says, or as a pod of the cluster.

        Args:
            context: of the kubeconfig; None is the one in use.

        Raises:
            ClusterUnavailable: there is none, or it does not answer.
            Unauthenticated: it does not accept the credentials.
        """
        configuration = _configuration(context)
        self.host = str(configuration.host)
        self._client = client.ApiClient(configuration)
        # The file that the library would choose outlives the installation of a CRD.
        with self._translated("get", "the list of its kinds"), TemporaryDirectory() as scratch:
            self._dynamic = DynamicClient(self._client, cache_file=str(Path(scratch, "kinds")))

    def knows(self, api_version: str, kind: str) -> bool:
        """Whether there is such a kind; of CRDs, whether they are installed."""
        try:
            self._kind(api_version, kind)
        except ResourceNotFoundError:
            return False
        return True

    def get(
        self, api_version: str, kind: str, name: str, namespace: str | None = None
    ) -> Object | None:
        """An object; None when there is none. Raises as `apply`."""
        resource = self._kind(api_version, kind)
        with self._translated("get", resource.name, namespace):
            try:
                found = self._dynamic.get(
                    resource,
                    name=name,
                    namespace=namespace,
                    serialize=False,
                    _request_timeout=ANSWER_S,
                )
            except ApiException as error:
                if error.status == 404:
                    return None
                raise
        return _plain(found)

    def items(
        self, api_version: str, kind: str, namespace: str | None = None, selector: str = ""
    ) -> list[Object]:
        """The objects of a kind, by name. Raises as `apply`."""
        resource = self._kind(api_version, kind)
        with self._translated("list", resource.name, namespace):
            found = self._dynamic.get(
                resource,
                namespace=namespace,
                label_selector=selector or None,
                serialize=False,
                _request_timeout=ANSWER_S,
            )
        items = [{"apiVersion": api_version, "kind": kind, **one} for one in _plain(found)["items"]]
        return sorted(items, key=lambda item: str(item["metadata"]["name"]))

    def apply(self, item: Object, dry_run: bool = False, force: bool = False) -> Object:
        """Let the cluster have an object as it is given here: server-side apply.

        Args:
            item: only the fields in it are ours.
            dry_run: only tell what it would be; the cluster checks it as it would otherwise.
            force: also take fields that others own.

        Returns:
            The object as it is now.

        Raises:
            NotPermitted: it may not be done with these credentials.
            InvalidData: the cluster refuses the object; names the fields.
            Conflict: others own some of its fields; names them.
            Unauthenticated: the credentials are not accepted.
            ClusterUnavailable: the cluster does not answer.
        """
        resource = self._kind(item["apiVersion"], item["kind"])
        namespace = item["metadata"].get("namespace")
        with self._translated("patch", resource.name, namespace, named(item)):
            applied = self._dynamic.server_side_apply(
                resource,
                body=item,
                namespace=namespace,
                field_manager=FIELD_MANAGER,
                force_conflicts=force or None,
                dry_run="All" if dry_run else None,
                serialize=False,
                _request_timeout=ANSWER_S,
            )
        return _plain(applied)

    def replace(self, item: Object) -> None:
        """Write an object as a whole. Raises as `apply`."""
        resource = self._kind(item["apiVersion"], item["kind"])
        namespace = item["metadata"].get("namespace")
        with self._translated("update", resource.name, namespace, named(item)):
            self._dynamic.replace(
                resource,
                body=item,
                namespace=namespace,
                field_manager=FIELD_MANAGER,
                _request_timeout=ANSWER_S,
            )

    def delete(self, item: Object) -> None:
        """Delete an object. Raises as `apply`."""
        resource = self._kind(item["apiVersion"], item["kind"])
        metadata = item["metadata"]
        namespace = metadata.get("namespace")
        with self._translated("delete", resource.name, namespace, named(item)):
            self._dynamic.delete(resource, metadata["name"], namespace, _request_timeout=ANSWER_S)

    def log(
        self,
        pod: str,
        container: str,
        namespace: str,
        since_s: int | None = None,
        lines: int | None = None,
        previous: bool = False,
    ) -> str:
        """What a container wrote.

        Args:
            pod: its name.
            container: its name.
            namespace: of the pod.
            since_s: only what is younger, seconds; None for all that is kept.
            lines: at most, the last ones; None for all.
            previous: of the run before the present one.

        Raises:
            InvalidData: there is no such log.
            NotPermitted: it may not be read.
            ClusterUnavailable: the cluster does not answer.
        """
        options = {"container": container, "sinceSeconds": since_s, "tailLines": lines}
        query = [(name, value) for name, value in options.items() if value is not None]
        with self._translated("get", "pods/log", namespace, f"the log of {pod} {container}"):
            answer = self._dynamic.request(
                "get",
                f"/api/v1/namespaces/{namespace}/pods/{pod}/log",
                query_params=[*query, *([("previous", "true")] if previous else [])],
                header_params={"Accept": "text/plain, */*"},
                serialize=False,
                _request_timeout=ANSWER_S,
            )
            # A log holds what is no UTF-8, too.
            return bytes(answer.data).decode(errors="replace")

    def _kind(self, api_version: str, kind: str) -> Any:
        with self._translated("get", "the list of its kinds"):
            return self._dynamic.resources.get(
                prefix="apis" if "/" in api_version else "api", api_version=api_version, kind=kind
            )

    @contextmanager
    def _translated(
        self, verb: str, resource: str, namespace: str | None = None, what: str = ""
    ) -> Iterator[None]:
        try:
            yield
        except ApiException as error:
            raise self._error(error, verb, resource, namespace, what or resource) from error
        # The library raises a ValueError where no HTTP is spoken.
        except (HTTPError, OSError, ValueError) as error:
            raise ClusterUnavailable(
                f"the cluster at {self.host} does not answer ({sentence(error)}): is it up, and "
                f"reachable from here? To use another one, {_KUBECONFIG}"
            ) from error

    def _error(
        self, error: ApiException, verb: str, resource: str, namespace: str | None, what: str
    ) -> Exception:
        said, causes = _said(error)
        if error.status == 401:
            return Unauthenticated(
                f"the cluster at {self.host} does not accept these credentials: log in again, or "
                f"use others: {_KUBECONFIG}"
            )
        if error.status == 403 and not _is_policy(said):
            where = f" in namespace {namespace}" if namespace else ""
            return NotPermitted(
                f"not permitted: {verb} {resource}{where} ({said}); ask for a Role with this verb, "
                f"then try: kubectl auth can-i {verb} {resource}"
                + (f" -n {namespace}" if namespace else "")
            )
        if error.status == 409 and verb != "patch":
            return Conflict(f"{what} was changed meanwhile: {said}; try again")
        if error.status == 409:
            return Conflict(
                f"{what} has fields that others set: {said}{listed(causes)}\nLeave them out of the "
                "overlay, or take them over with --force-conflicts"
            )
        if error.status in (400, 403, 404, 422):
            return InvalidData(f"the cluster refuses {what}: {said}{listed(causes)}")
        return ClusterUnavailable(
            f"the cluster at {self.host} failed to {verb} {what}: {error.status} {said}; try again"
        )


def _configuration(context: str | None) -> Any:
    configuration = client.Configuration()
    # The library reads the variable when it is imported.
    given = os.environ.get("KUBECONFIG")
    try:
        if given or Path("~/.kube/config").expanduser().exists():
            config.load_kube_config(given, context=context, client_configuration=configuration)
        else:
            config.load_incluster_config(client_configuration=configuration)
    except (config.ConfigException, yaml.YAMLError, OSError) as error:
        raise ClusterUnavailable(
            f"no Kubernetes cluster is named ({sentence(error)}): {_KUBECONFIG}"
        ) from error
    configuration.retries = 0
    return configuration


def _said(error: ApiException) -> tuple[str, list[str]]:
    """What the API server says, and about which fields."""
    try:
        status = json.loads(error.body or "")
        causes = (status.get("details") or {}).get("causes") or []
        fields = [
            printable(f"{cause.get('field', '?')}: {cause.get('message', '')}") for cause in causes
        ]
        return sentence(status["message"]), fields
    except (TypeError, ValueError, KeyError, AttributeError):
        return sentence(error.reason or error.status), []


def _is_policy(said: str) -> bool:
    """Whether a rule for objects said no (Pod Security, a webhook), not a lack of rights."""
    return re.search(r"violates|admission|exceeded quota", said) is not None


def _plain(answer: Any) -> Object:
    plain: Object = json.loads(answer.data)
    return plain

"""An API server for tests: kmock's emulator, and what it lacks of the calls that we make.

kmock keeps JSON: it checks no schema, sets no defaults, runs no controller, knows no owners of
fields and ignores label selectors. Added here: server-side apply that creates, dry runs, PUT, the
kind Namespace and that a namespace has to exist, logs, and refusals that a test asks for.
"""

import asyncio
import copy
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kmock
from aiohttp import web

Object = dict[str, Any]
Key = tuple[kmock.resource, str | None, str]
START_S = 10
# What a secret holds, as an API server keeps it.
SECRET = "c2VjcmV0"
NAMESPACES = kmock.resource("", "v1", "namespaces")
CUSTOM = {
    "keda.sh/v1alpha1/scaledobjects": "ScaledObject",
    "monitoring.coreos.com/v1/podmonitors": "PodMonitor",
    "monitoring.coreos.com/v1/prometheusrules": "PrometheusRule",
}


@dataclass
class Refusal:
    """Requests that are refused.

    Attributes:
        method: of HTTP.
        plural: of the resource; with the subresource: `pods/log`.
        code: status.
        message: what the server says.
        causes: of its details.
        after: how many are answered before.
        dry_runs: whether dry runs are refused, too.
    """

    method: str
    plural: str
    code: int
    message: str = "refused"
    causes: tuple[Object, ...] = ()
    after: int = 0
    dry_runs: bool = True


class ApiServer(kmock.KubernetesEmulator):
    """A server with the kinds of Kubernetes itself, and of those CRDs that a test installs.

    It has the namespace `nuclei`, and nothing in it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.refusals: list[Refusal] = []
        self.logs: dict[tuple[str, str], bytes] = {}
        self.writes: list[str] = []
        self._version = 0
        self.resources.load_bundled()
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "nuclei"}}
        self.add("v1/namespaces", namespace)

    def install(self, *resources: str) -> None:
        """Install CRDs: `keda.sh/v1alpha1/scaledobjects`."""
        for resource in resources:
            self.resources[resource] = kmock.ResourceInfo(
                kind=CUSTOM[resource], namespaced=True, verbs={"get", "list", "patch"}
            )

    def add(self, resource: str, item: Object) -> None:
        """Let the server have an object."""
        metadata = item["metadata"]
        self.objects[resource, metadata.get("namespace"), metadata["name"]] = item

    def put_secret(self, name: str, *keys: str) -> None:
        metadata = {"name": name, "namespace": "nuclei"}
        self.add("v1/secrets", {"metadata": metadata, "data": dict.fromkeys(keys, SECRET)})

    def names(self, resource: str) -> set[str]:
        """The objects of a resource that are there."""
        wanted = kmock.resource(resource)
        return {
            name
            for (kind, _, name), item in self.objects.items()
            if kind == wanted and not item.deleted
        }

    def find(self, resource: str, name: str, namespace: str | None = "nuclei") -> Object:
        found: Object = self.objects[resource, namespace, name].raw
        return found

    async def _handle(self, request: kmock.Request) -> web.StreamResponse:
        refusal = self._refusal(request)
        if refusal is not None:
            details = {"causes": list(refusal.causes)}
            return _failure(refusal.code, refusal.message, details)
        if request.subresource == "log":
            log = self.logs.get((request.name or "", request.params.get("container", "")))
            return _failure(400, "no such log") if log is None else web.Response(body=log)
        key = _key(request)
        if key is not None and request.method in ("PUT", "PATCH"):
            return self._write(request, key)
        if key is not None and key[0] == NAMESPACES:
            if key[2] not in self.names("v1/namespaces"):
                return _failure(404, f'namespaces "{key[2]}" not found')
            return web.json_response(self.objects[key].raw)
        if request.method == "DELETE":
            self.writes.append(f"DELETE {request.name}")
        return await super()._handle(request)

    def _write(self, request: kmock.Request, key: Key) -> web.StreamResponse:
        if key[1] is not None and key[1] not in self.names("v1/namespaces"):
            return _failure(404, f'namespaces "{key[1]}" not found')
        there = key in self.objects and not self.objects[key].deleted
        former = copy.deepcopy(self.objects[key].raw) if there else {}
        now = request.data if request.method == "PUT" else _merged(former, request.data)
        if request.params.get("dryRun") == "All":
            return web.json_response(now)
        self._version += 1
        now["metadata"]["resourceVersion"] = str(self._version)
        self.objects[key] = now
        self.writes.append(f"{request.method.value} {key[2]}")
        return web.json_response(now)

    def _refusal(self, request: kmock.Request) -> Refusal | None:
        if request.resource is None:
            return None
        plural = "/".join(filter(None, (request.resource.plural, request.subresource)))
        for refusal in self.refusals:
            if (refusal.method, refusal.plural) != (request.method.value, plural):
                continue
            if request.params.get("dryRun") == "All" and not refusal.dry_runs:
                continue
            if refusal.after == 0:
                return refusal
            refusal.after -= 1
        return None


@contextmanager
def running() -> Iterator[ApiServer]:
    """An API server on a port of this machine, in a thread of its own."""
    started: Future[tuple[ApiServer, Callable[[], object]]] = Future()

    async def serve() -> None:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        async with ApiServer() as server, kmock.Server(server):
            started.set_result((server, lambda: loop.call_soon_threadsafe(ended.set)))
            await ended.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except Exception as error:
            started.set_exception(error)

    thread = threading.Thread(target=run, name="api-server")
    thread.start()
    server, end = started.result(START_S)
    try:
        yield server
    finally:
        end()
        thread.join(START_S)


def write_kubeconfig(path: Path, address: str) -> Path:
    """A kubeconfig whose context in use is a server."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "here", "cluster": {"server": address}}],
        "users": [{"name": "me", "user": {}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        "current-context": "here",
    }
    path.write_text(json.dumps(config))
    return path


def _key(request: kmock.Request) -> Key | None:
    """The object that a request is about; None for none.

    kmock takes a namespace itself for what is in it, and so for no object.
    """
    if request.resource is None:
        return None
    if request.name is None and request.resource.plural is None and request.namespace is not None:
        return NAMESPACES, None, request.namespace
    return None if request.name is None else (request.resource, request.namespace, request.name)


def _merged(former: Object, changes: Object) -> Object:
    for name, value in changes.items():
        before = former.get(name)
        both = isinstance(before, dict) and isinstance(value, dict)
        former[name] = _merged(before, value) if both else value
    return former


def _failure(code: int, message: str, details: Object | None = None) -> web.Response:
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message}
    return web.json_response({**status, "code": code, "details": details or {}}, status=code)

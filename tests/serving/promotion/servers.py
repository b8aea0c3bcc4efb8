"""Production's registry: an MLflow server on PostgreSQL, with an S3 store that checks its keys."""

import base64
import json
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import pytest

from nuclei.process.child import Child
from nuclei.process.ports import LOOPBACK, free_ports
from tests.prerequisites import missing

BUCKET = "models"
BIN = Path(sys.executable).parent
POSTGRESQL = Path("/usr/lib/postgresql")
START_S = 120.0
# Of an MLflow server whose webhooks reach sync on this machine.
MLFLOW = {
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": base64.urlsafe_b64encode(bytes(32)).decode(),
    "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
    "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    # A webhook of before would be known for a minute, and a new one not.
    "MLFLOW_WEBHOOK_CACHE_TTL": "0",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@dataclass(frozen=True)
class ProductionRegistry:
    """Three servers that belong together.

    Attributes:
        uri: of MLflow.
        database: of PostgreSQL, for psycopg.
        s3: the URL of the store.
        keys: of the store, as variables; only the MLflow server has them.
    """

    uri: str
    database: str
    s3: str
    keys: Mapping[str, str]


@contextmanager
def production_registry(folder: Path) -> Iterator[ProductionRegistry]:
    """Start the three; their logs are in `folder`."""
    with ExitStack() as stack:
        database = stack.enter_context(_postgresql(folder))
        s3, keys = stack.enter_context(_s3(folder))
        (port,) = free_ports(1)
        command = [
            *(str(BIN / "mlflow"), "server", "--host", LOOPBACK, "--port", str(port)),
            *("--workers", "1", "--backend-store-uri", database.replace("://", "+psycopg://")),
            *("--artifacts-destination", f"s3://{BUCKET}/artifacts"),
        ]
        environment = {**os.environ, **keys, "MLFLOW_S3_ENDPOINT_URL": s3, **MLFLOW}
        server = Child("MLflow", command, environment, folder / "mlflow.log")
        stack.enter_context(_running(server))
        uri = f"http://{LOOPBACK}:{port}"
        _wait(lambda: urlopen(f"{uri}/health", timeout=5).close(), server)
        yield ProductionRegistry(uri, database, s3, keys)


@contextmanager
def _postgresql(folder: Path) -> Iterator[str]:
    """A PostgreSQL server with an empty database; its URI."""
    import psycopg

    programs = max(POSTGRESQL.glob("*/bin"), default=None)
    if programs is None:
        missing("needs PostgreSQL: apt-get install postgresql")
    # Not below pytest's folder, which only root may enter; PostgreSQL runs as anybody but root.
    data = Path(tempfile.mkdtemp(prefix="postgresql-"))
    user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    as_user = user if os.getuid() == 0 else []
    if as_user:
        shutil.chown(data, "postgres", "postgres")
    log = folder / "postgresql.log"
    (port,) = free_ports(1)
    cluster = data / "cluster"
    initialise = [*as_user, str(programs / "initdb"), "-A", "trust", "-U", "postgres"]
    serve = [*as_user, str(programs / "postgres"), "-p", str(port), "-h", LOOPBACK, "-F"]
    try:
        made = Child("initdb", [*initialise, "-D", str(cluster)], os.environ, log, data)
        made.start()
        _wait(lambda: _check(made.exit_code == 0), made)
        server = Child(
            "PostgreSQL", [*serve, "-k", str(data), "-D", str(cluster)], os.environ, log, data
        )
        with _running(server):
            uri = f"postgresql://postgres@{LOOPBACK}:{port}/postgres"
            _wait(lambda: psycopg.connect(uri).close(), server)
            yield uri
    finally:
        shutil.rmtree(data)


@contextmanager
def _s3(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A SeaweedFS server with a bucket; its URL, and the keys without which it refuses."""
    weed = BIN / "weed"
    if not weed.exists():
        missing("needs SeaweedFS: make train-env")
    keys = {"accessKey": "registry", "secretKey": secrets.token_hex(16)}
    identity = {"name": "registry", "credentials": [keys], "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "s3").mkdir()
    parts = ("master", "volume", "filer", "s3")
    ports = dict(zip([*parts, *(f"{part}.grpc" for part in parts)], free_ports(8), strict=True))
    command = [str(weed), "server", f"-dir={folder / 's3'}", f"-ip={LOOPBACK}"]
    command += [f"-ip.bind={LOOPBACK}", "-filer", "-s3", f"-s3.config={folder / 's3.json'}"]
    command += ["-master.volumeSizeLimitMB=64", "-master.telemetry=false"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
    for part in parts:
        command += [f"-{part}.port={ports[part]}", f"-{part}.port.grpc={ports[f'{part}.grpc']}"]
    variables = {
        "AWS_ACCESS_KEY_ID": keys["accessKey"],
        "AWS_SECRET_ACCESS_KEY": keys["secretKey"],
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    url = f"http://{LOOPBACK}:{ports['s3']}"
    server = Child("SeaweedFS", command, os.environ, folder / "seaweedfs.log")
    with _running(server):
        _wait(lambda: _make_bucket(url, variables), server)
        yield url, variables


def _make_bucket(url: str, keys: Mapping[str, str]) -> None:
    import boto3

    boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
        region_name=keys["AWS_DEFAULT_REGION"],
    ).create_bucket(Bucket=BUCKET)


@contextmanager
def _running(server: Child) -> Iterator[None]:
    server.start()
    try:
        yield
    finally:
        server.stop(10.0)


def _check(holds: bool) -> None:
    if not holds:
        raise OSError


def _wait(attempt: Callable[[], object], process: Child) -> None:
    """Call until it raises no more."""
    end = time.monotonic() + START_S
    while True:
        try:
            attempt()
            return
        except Exception as error:
            if time.monotonic() > end or process.exit_code:
                pytest.fail(f"{process.name}: {error}\n{process.last_lines(30)}")
        time.sleep(0.2)

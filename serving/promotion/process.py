"""The process of sync: rounds in the main thread, its port in another."""

import resource
import signal
import threading
from types import FrameType

import uvicorn

from nuclei.process.ports import check_free
from serving.gateway.certificates import loopback_tls
from serving.gateway.settings import GatewaySettings
from serving.promotion.control_key import make_control_key, read_control_key
from serving.promotion.listener import listener
from serving.promotion.loop import Followed, Loop, prepare
from serving.promotion.readiness import Readiness
from serving.promotion.servers import TritonBeside
from serving.promotion.settings import SyncSettings
from serving.promotion.synced import SyncedRepository
from serving.promotion.trial import Gateways
from serving.promotion.webhook import Webhooks
from serving.registry import Registry
from serving.repository.files import MAX_GRAPH_BYTES
from serving.settings import read_settings
from serving.triton.control import TritonControl


def prepare_repository(settings: SyncSettings) -> None:
    """Make what a Triton that is not started yet needs: its repository, the key of its control API.

    Raises:
        NucleiError, OSError: as `loop.prepare`, or the key cannot be written.
    """
    _bound_files()
    prepare(settings, Registry(settings.sync))
    if settings.triton_key_file is not None:
        make_control_key(settings.triton_key_file)


def follow(settings: SyncSettings) -> None:
    """Follow the registry until SIGTERM or Ctrl-C.

    Raises:
        MissingPrerequisite: the port is taken, or the key of Triton's control API is missing.
    """
    check_free(settings.sync_host, settings.sync_port, "sync", "NUCLEI_SYNC_PORT")
    _bound_files()
    token = settings.token.get_secret_value() if settings.token else ""
    gateways = Gateways(settings.gateway_urls, token, loopback_tls(read_settings(GatewaySettings)))
    repository = SyncedRepository(settings.synced)
    key = read_control_key(settings.triton_key_file) if settings.triton_key_file else ""
    server = TritonBeside(TritonControl(settings.triton_address, key), repository)
    followed = Followed(settings, Registry(settings.sync), server, gateways)
    loop = Loop(followed, settings.sync_interval_s, settings.sync_health)

    def stop(number: int, frame: FrameType | None) -> None:
        loop.stop()

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, stop)
    readiness = Readiness(server)
    threading.Thread(target=readiness.watch, daemon=True, name="readiness").start()
    _listen(settings, loop, readiness)
    loop.run()


def _listen(settings: SyncSettings, loop: Loop, readiness: Readiness) -> None:
    """Serve the port in a thread that ends with this process."""
    secret = settings.sync_webhook_secret
    webhooks = Webhooks(secret.get_secret_value()) if secret else None
    app = listener(webhooks, loop.wake, loop.status, lambda: readiness.problem)
    config = uvicorn.Config(
        app,
        host=settings.sync_host,
        port=settings.sync_port,
        log_config=None,
        access_log=False,
        limit_concurrency=32,
        timeout_keep_alive=5,
        h11_max_incomplete_event_size=2**15,
        http="h11",
    )
    threading.Thread(target=uvicorn.Server(config).run, daemon=True, name="listener").start()


def _bound_files() -> None:
    """No file grows beyond what a model may have, whatever a store sends."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    bound = MAX_GRAPH_BYTES if most == resource.RLIM_INFINITY else min(MAX_GRAPH_BYTES, most)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bound, most))

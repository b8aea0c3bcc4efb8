"""Sync as a child process: once before Triton starts, then beside it."""

import logging
import os
import sys
import time
import urllib.request
from collections.abc import Callable
from urllib.error import HTTPError

from nuclei.process.background import in_background
from nuclei.process.child import Child
from nuclei.process.ports import check_free, reachable
from serving.logs import Event
from serving.repository.listing import model_names
from serving.settings import ServeSettings
from serving.supervision.answering_child import AnsweringChild

logger = logging.getLogger(__name__)

_COMMAND = (sys.executable, "-m", "serving.promotion")
_POLL_S = 0.2
_HUNG_S = 20.0
_STOP_S = 5.0
_ERROR_LINES = 15


def prepare(settings: ServeSettings, give_sign: Callable[[], None]) -> None:
    """Fetch what the registry wants into the repository that Triton is to serve.

    Where that fails, or takes too long, what is there stays; where nothing is there, the given
    repository is served until the registry is reached.

    Raises:
        OSError: the state folder cannot be written.
    """
    log = settings.state.resolve() / "sync" / "prepare.log"
    child = Child("sync", (*_COMMAND, "prepare"), _environment(settings), log)
    child.start()
    deadline = time.monotonic() + settings.sync_prepare_s
    try:
        while child.running and time.monotonic() < deadline:
            give_sign()
            time.sleep(_POLL_S)
        if child.exit_code != 0:
            why = "it took too long" if child.running else child.ending
            logger.warning(Event("not_prepared", why=why, detail=child.last_lines(_ERROR_LINES)))
    finally:
        child.stop(0)
    synced = settings.served_repository
    if synced.is_dir() and model_names(synced):
        return
    logger.warning(Event("served_as_given", repository=str(settings.repository)))
    # The imports and the copy may take longer than the guard waits for a sign.
    seeding = in_background(lambda: _seed(settings), "seed")
    while not seeding.done():
        give_sign()
        time.sleep(_POLL_S)
    seeding.result()


def _seed(settings: ServeSettings) -> None:
    # It imports numba and onnxruntime: seconds, which a service without sync does not need.
    from serving.promotion.synced import SyncedRepository

    SyncedRepository(settings.served_repository).seed(settings.repository)


class SyncProcess(AnsweringChild):
    """Follows the registry beside Triton."""

    def __init__(self, settings: ServeSettings, triton_address: str, gateway_url: str) -> None:
        """Describe the process; `start` starts it.

        Args:
            settings: of the service.
            triton_address: of Triton's gRPC API.
            gateway_url: of the gateway of this service.
        """
        self._settings = settings
        environment = {
            "NUCLEI_GATEWAYS": gateway_url,
            **_environment(settings),
            "NUCLEI_TRITON_ADDRESS": triton_address,
        }
        super().__init__(
            "sync",
            _COMMAND,
            environment,
            settings.state.resolve() / "sync" / "sync.log",
            answers=lambda timeout_s: _answers(settings, timeout_s),
            start_s=settings.start_s,
            hung_s=_HUNG_S,
        )

    def check_port(self) -> None:
        """Raises MissingPrerequisite when its port is taken."""
        check_free(self._settings.sync_host, self._settings.sync_port, "sync", "NUCLEI_SYNC_PORT")

    def stop(self, timeout_s: float = _STOP_S) -> None:
        """End it after the step under way, or soon."""
        super().stop(timeout_s)


def _answers(settings: ServeSettings, timeout_s: float) -> bool | None:
    url = f"http://{reachable(settings.sync_host)}:{settings.sync_port}/livez"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout_s) as answer:
            return bool(answer.status == 200)
    # Strangers took all its connections: it is crowded, and no reason to end it.
    except HTTPError:
        return True
    except OSError:
        return None


def _environment(settings: ServeSettings) -> dict[str, str]:
    return {
        **os.environ,
        "NUCLEI_SYNC": settings.sync,
        "NUCLEI_STATE": str(settings.state.resolve()),
        "NUCLEI_REPOSITORY": str(settings.repository.resolve()),
        "NUCLEI_SYNC_PORT": str(settings.sync_port),
    }

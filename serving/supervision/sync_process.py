"""Sync as a child process: once before Triton starts, then beside it."""

import logging
import os
import sys
import time
import urllib.request
from collections.abc import Callable
from urllib.error import HTTPError

from nuclei.errors import EngineFailed
from nuclei.process.background import in_background
from nuclei.process.child import Child
from nuclei.process.ports import check_free, reachable
from serving.logs import Event
from serving.repository.listing import model_names
from serving.settings import ServeSettings
from serving.supervision.probe import Fault

logger = logging.getLogger(__name__)

_COMMAND = (sys.executable, "-m", "serving.promotion")
_POLL_S = 0.2
_PROBE_S = 2.0
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


class SyncProcess:
    """Follows the registry beside Triton."""

    def __init__(self, settings: ServeSettings, triton_address: str, gateway_url: str) -> None:
        """Describe the process; `launch` starts it.

        Args:
            settings: of the service.
            triton_address: of Triton's gRPC API.
            gateway_url: of the gateway of this service.
        """
        self._settings = settings
        self.log = settings.state.resolve() / "sync" / "sync.log"
        environment = {
            "NUCLEI_GATEWAYS": gateway_url,
            **_environment(settings),
            "NUCLEI_TRITON_ADDRESS": triton_address,
        }
        self._child = Child("sync", _COMMAND, environment, self.log)

    @property
    def running(self) -> bool:
        return self._child.running

    @property
    def ending(self) -> str:
        """How it ended, for messages."""
        return self._child.ending

    def cap_log(self) -> None:
        """Keep its log from growing without bound."""
        self._child.cap_log()

    def check_port(self) -> None:
        """Raises MissingPrerequisite when its port is taken."""
        check_free(self._settings.sync_host, self._settings.sync_port, "sync", "NUCLEI_SYNC_PORT")

    def launch(self) -> None:
        """Start it. Raises OSError: nothing can be written."""
        self._child.start()

    def wait_ready(self) -> None:
        """Wait until it answers, whether it reaches the registry or not.

        Raises:
            EngineFailed: it ended, or did not answer in time.
        """
        deadline = time.monotonic() + self._settings.start_s
        while not self._answers():
            if not self._child.running or time.monotonic() > deadline:
                raise EngineFailed(
                    f"sync did not start ({self._child.ending}):\n"
                    + self._child.last_lines(_ERROR_LINES)
                )
            time.sleep(_POLL_S)

    def check_answers(self) -> None:
        """Raises Fault when it is silent."""
        silent = time.monotonic()
        while not self._answers():
            if time.monotonic() - silent > _HUNG_S:
                raise Fault(f"no answer from sync in {_HUNG_S:.0f} s")
            time.sleep(_POLL_S)

    def kill(self) -> None:
        """End it at once."""
        self._child.stop(0)

    def stop(self) -> None:
        """End it after the step under way, or soon."""
        self._child.stop(_STOP_S)

    def _answers(self) -> bool:
        settings = self._settings
        url = f"http://{reachable(settings.sync_host)}:{settings.sync_port}/livez"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(url, timeout=_PROBE_S) as answer:
                return bool(answer.status == 200)
        # Strangers took all its connections: it is crowded, and no reason to end it.
        except HTTPError:
            return True
        except OSError:
            return False


def _environment(settings: ServeSettings) -> dict[str, str]:
    return {
        **os.environ,
        "NUCLEI_SYNC": settings.sync,
        "NUCLEI_STATE": str(settings.state.resolve()),
        "NUCLEI_REPOSITORY": str(settings.repository.resolve()),
        "NUCLEI_SYNC_PORT": str(settings.sync_port),
    }

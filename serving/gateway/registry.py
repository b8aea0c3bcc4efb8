"""The registry of model versions, as the gateway reaches it: through a process of its own.

The process starts with the first request, does one after the other, and ends when nobody has asked
for a while. One that takes too long is killed: what it has begun is completed by asking again.
"""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from contextlib import suppress
from typing import TypeVar

from pydantic import BaseModel

from nuclei import errors
from nuclei.errors import InternalError, NucleiError, Overloaded, RegistryUnavailable
from serving.gateway.observation import UNEXPECTED
from serving.registry_report import URI_VARIABLE, Answer, RegistryReport, Request

COMMAND = (sys.executable, "-m", "serving.promotion.administration")
# MLflow is imported in it, and a server that does not answer is asked twice.
READ_S = 60.0
# A version's files are fetched, to see that they are those that passed the gates.
CHANGE_S = 300.0
IDLE_S = 60.0
CLOSE_S = 5.0
# Requests that wait for those before them.
MAX_WAITING = 8
# Pages look again and again.
REPORT_AGE_S = 2.0
MAX_ANSWER_BYTES = 2**24
_SECRETS = ("NUCLEI_TOKEN", "NUCLEI_ADMINISTRATOR_TOKEN")

Result = TypeVar("Result", bound=BaseModel)


class RegistryProcess:
    """One registry; all of it belongs to the event loop."""

    def __init__(self, uri: str) -> None:
        """Args: uri: of MLflow's tracking server or database."""
        self._uri = uri
        self._process: Process | None = None
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._idle: asyncio.TimerHandle | None = None
        self._report: asyncio.Task[RegistryReport] | None = None
        self._report_until = 0.0
        # What is done to its end, even if its caller has left.
        self._tasks: set[asyncio.Task[BaseModel]] = set()

    async def report(self) -> RegistryReport:
        """What is registered, at most `REPORT_AGE_S` old; errors as `ask`."""
        now = asyncio.get_running_loop().time()
        running = self._report
        if running is None or (running.done() and (now > self._report_until or _failed(running))):
            self._report_until = now + REPORT_AGE_S
            running = asyncio.create_task(self._ask(Request(action="report"), RegistryReport))
            self._report = running
        return await asyncio.shield(running)

    async def ask(self, request: Request, kind: type[Result]) -> Result:
        """The answer to a request.

        Args:
            request: what to do.
            kind: of the answer.

        Raises:
            RegistryUnavailable: the registry does not answer, or not in time.
            Overloaded: too many requests wait.
            NucleiError: as `serving.promotion.administration`.
        """
        task = asyncio.create_task(self._ask(request, kind))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # What was read before is no longer so.
        self._report_until = 0.0
        return await asyncio.shield(task)

    async def close(self) -> None:
        """End the process, which first completes a change that it is in."""
        if self._idle is not None:
            self._idle.cancel()
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), CLOSE_S)

    async def _ask(self, request: Request, kind: type[Result]) -> Result:
        if self._waiting >= MAX_WAITING:
            raise Overloaded("too many ask for the registry at once; look again in 5 s", 5.0)
        self._waiting += 1
        try:
            async with self._turn:
                answer = await self._answer(request)
        finally:
            self._waiting -= 1
        if answer.error:
            raise _error(answer)
        return kind.model_validate_json(answer.result)

    async def _answer(self, request: Request) -> Answer:
        limit_s = CHANGE_S if request.action in ("promote", "rollback") else READ_S
        try:
            async with asyncio.timeout(limit_s):
                process = await self._running()
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(request.model_dump_json().encode() + b"\n")
                await process.stdin.drain()
                line = await process.stdout.readline()
            if not line:
                raise ConnectionResetError
            return Answer.model_validate_json(line)
        except TimeoutError:
            self._kill()
            raise RegistryUnavailable(
                f"the registry did not answer within {limit_s:g} s; look at what is so, and ask "
                "again"
            ) from None
        except (OSError, ValueError) as error:
            self._kill()
            raise InternalError(UNEXPECTED) from error
        finally:
            self._end_when_idle()

    async def _running(self) -> Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                *COMMAND, stdin=PIPE, stdout=PIPE, env=self._environment(), limit=MAX_ANSWER_BYTES
            )
        return self._process

    def _environment(self) -> Mapping[str, str]:
        """Ours, with what MLflow needs of it, but without what opens this gateway."""
        ours = {name: text for name, text in os.environ.items() if name not in _SECRETS}
        return {**ours, URI_VARIABLE: self._uri, "PYTHONSAFEPATH": "1"}

    def _end_when_idle(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(IDLE_S, self._end_idle)

    def _end_idle(self) -> None:
        if not self._turn.locked():
            self._kill()

    def _kill(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            self._process = None


def _failed(task: "asyncio.Task[RegistryReport]") -> bool:
    return task.cancelled() or task.exception() is not None


def _error(answer: Answer) -> NucleiError:
    kind = getattr(errors, answer.error, InternalError)
    assert issubclass(kind, NucleiError)
    return kind(answer.message or UNEXPECTED)

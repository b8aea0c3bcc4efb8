"""Whether the Triton beside sync is fit for frames: every champion loaded, and each answers."""

import time

from nuclei.errors import NucleiError
from nuclei.quoting import sentence
from serving.promotion.servers import TritonBeside
from serving.repository.listing import model_names
from serving.supervision.probe import Fault, check_triton

INTERVAL_S = 2.0


class Readiness:
    """What was found last; `watch` looks again and again, in a thread of its own.

    The registry has no part in it: a Triton goes on serving while that is away.

    Attributes:
        problem: why Triton is not to get frames; empty when it is.
    """

    def __init__(self, server: TritonBeside) -> None:
        """Describe it; until the first look, nothing is ready."""
        self._server = server
        self.problem = "not looked yet"

    def watch(self) -> None:
        """Look for ever. A busy Triton answers late, and stays what it was until then."""
        while True:
            self.problem = self.look()
            time.sleep(INTERVAL_S)

    def look(self) -> str:
        """Look once, with a small inference of each champion; returns the problem, "" for none."""
        folder, control = self._server.repository.folder, self._server.control
        try:
            champions = set(model_names(folder)) if folder.is_dir() else set()
            if not champions:
                return "the registry has given no champion yet"
            if missing := champions - {name for name, _ in control.ready()}:
                return f"Triton has not loaded {', '.join(sorted(missing))}"
            check_triton(control.address)
        except (NucleiError, OSError) as error:
            return sentence(error)
        except Fault as fault:
            return str(fault)
        return ""

"""Which alerts explain which others: for Alertmanager, and as a query."""

from dataclasses import dataclass
from typing import Any

# Where there is no gateway only these are told besides: they may be why.
_CAUSES = "ServiceDown|DiskFull|MemoryHigh|CertificateExpires"
_SERVICE = "ProbeFailing|QueueGrowing|(Availability|Latency)Burn(Fast|Slow|Ticket)"


@dataclass(frozen=True)
class Inhibition:
    """Alerts that nobody needs to be told while another fires.

    Attributes:
        source: matchers of the one that explains.
        target: matchers of those that it explains.
        equal: labels that both have alike.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    equal: tuple[str, ...] = ()

    def rule(self) -> dict[str, Any]:
        """As Alertmanager has it."""
        return {
            "source_matchers": list(self.source),
            "target_matchers": list(self.target),
            **({"equal": list(self.equal)} if self.equal else {}),
        }

    def explained(self) -> str:
        """PromQL of those that are explained now."""
        return f"{_firing(*self.target)} and on ({', '.join(self.equal)}) {_firing(*self.source)}"


def _of_one(source: str, target: str, *equal: str) -> Inhibition:
    return Inhibition((f'alertname="{source}"',), (target,), equal)


def _firing(*matchers: str) -> str:
    return "ALERTS{" + ", ".join(['alertstate="firing"', *matchers]) + "}"


INHIBITIONS = (
    _of_one("ServiceDown", f'alertname!~"{_CAUSES}"'),
    _of_one("TritonDown", f'alertname=~"TritonUnreached|TritonInstanceDead|{_SERVICE}"'),
    *(
        inhibition
        for objective in ("Availability", "Latency")
        for inhibition in (
            _of_one(
                f"{objective}BurnFast", f'alertname=~"{objective}Burn(Slow|Ticket)"', "job", "size"
            ),
            _of_one(f"{objective}BurnSlow", f'alertname="{objective}BurnTicket"', "job", "size"),
        )
    ),
    _of_one("SyncFailing", 'alertname="SyncLagging"', "instance"),
    Inhibition(
        ('alertname="CertificateExpires"', 'severity="page"'),
        ('alertname="CertificateExpires"', 'severity="ticket"'),
        ("instance",),
    ),
)

# How many alerts fire that no other explains.
UNEXPLAINED = (
    f"count({_firing()} unless ("
    + " or ".join(f"({each.explained()})" for each in INHIBITIONS)
    + ")) or vector(0)"
)

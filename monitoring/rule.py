"""A rule of Prometheus: a recording, or an alert with what it tells whoever is on call."""

import textwrap
from dataclasses import dataclass
from typing import Any, Literal

from monitoring.thresholds import Links

Severity = Literal["page", "ticket"]
Dashboard = Literal["service", "triton", "quality", "promotion", "fleet", "microscope"]

# `humanize` would write 0.4 as 400m.
VALUE = '{{ printf "%.4g" $value }}'
PERCENTAGE = "{{ $value | humanizePercentage }}"
DURATION = "{{ $value | humanizeDuration }}"
BYTES = "{{ $value | humanize1024 }}B"


def label(name: str) -> str:
    """A label of the alert, for its texts."""
    return f"{{{{ $labels.{name} }}}}"


def percent(share: float) -> str:
    """A share, for texts: 0.001 is `0.1%`, as humanizePercentage writes it."""
    return f"{share * 100:.4g}%"


@dataclass(frozen=True)
class Recording:
    """Attributes: record: `level:metric:operations`, level are its labels; expr: PromQL."""

    record: str
    expr: str

    def rule(self) -> dict[str, Any]:
        """As it stands in a file of rules."""
        return {"record": self.record, "expr": _cleaned(self.expr)}


@dataclass(frozen=True)
class Alert:
    """An alert.

    Attributes:
        name: also that of its page in docs/runbooks.
        severity: `page`: somebody is to look now; `ticket`: within days.
        expr: PromQL; each series that it returns is an alert.
        summary: one line, with labels.
        description: what was measured, with values and units, and what was expected.
        dashboard: that shows more.
        lasting: how long it has to hold.
    """

    name: str
    severity: Severity
    expr: str
    summary: str
    description: str
    dashboard: Dashboard
    lasting: str = ""

    def rule(self, links: Links) -> dict[str, Any]:
        """As it stands in a file of rules."""
        return {
            "alert": self.name,
            "expr": _cleaned(self.expr),
            **({"for": self.lasting} if self.lasting else {}),
            "labels": {"severity": self.severity},
            "annotations": {
                "summary": self.summary,
                "description": " ".join(self.description.split()),
                "runbook_url": f"{links.runbooks.rstrip('/')}/{self.name}.md",
                "dashboard": f"{links.grafana.rstrip('/')}/d/nuclei-{self.dashboard}",
            },
        }


def _cleaned(expr: str) -> str:
    return textwrap.dedent(expr).strip()

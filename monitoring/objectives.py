"""The objectives of availability and latency, and the alerts on how fast their budgets burn.

Source: Beyer et al., The Site Reliability Workbook, chapter 5, "Multiwindow, Multi-Burn-Rate
Alerts": an alert holds when a long and a short window both burn the budget faster than a factor;
the short one ends it soon after the failure.

Ratios have no sample while there is nothing to divide by: at night nothing is recorded, instead of
NaN. A counter's series begins with its first frame, which `rate` does not see. Then it extrapolates
each series by itself, so that fewer than none may be slow: differences are 0 at least.
"""

from collections.abc import Iterator

from monitoring.rule import PERCENTAGE, Alert, Recording, Severity, label, percent
from monitoring.thresholds import Availability, BurnRate, BurnRates, Latency, Thresholds, seconds

BUDGET_DAYS = 30
# What counts for an objective: frames of callers. The probe has alerts of its own.
_CALLERS = 'protocol!="probe"'
# Frames that were answered by a model of one view; eight views take eight times as long.
_ANSWERED = f'{_CALLERS},code="OK",model!~".+_tta"'


def objective_rules(thresholds: Thresholds) -> list[Recording | Alert]:
    """The recordings of every window, then the alerts."""
    rates = thresholds.burn_rates
    windows = sorted(
        {
            window
            for rate in (rates.fast, rates.slow, rates.ticket)
            for window in (rate.long, rate.short)
        },
        key=seconds,
    )
    return [
        *(rule for window in windows for rule in _availability(window, thresholds)),
        *(rule for window in windows for rule in _latency(window, thresholds.latency)),
        *_availability_alerts(rates, thresholds.availability),
        *_latency_alerts(rates, thresholds.latency),
    ]


def _availability(window: str, thresholds: Thresholds) -> Iterator[Recording]:
    frames = "sum by (job) (rate(nuclei_request_seconds_count{{{}}}[{}]))"
    failures = f"job:nuclei_failures:rate{window}"
    yield Recording(
        failures,
        f"sum by (job) (\n{_failures(window, thresholds)}\n)\n"
        f"or {frames.format(_CALLERS, window)} * 0",
    )
    answered = frames.format(f'{_CALLERS},code="OK"', window)
    yield Recording(
        f"job:nuclei_requests:rate{window}", f"{failures} + ({answered} or {failures} * 0)"
    )
    yield Recording(
        f"job:nuclei_failures_per_request:ratio_rate{window}",
        f"{failures} / (job:nuclei_requests:rate{window} > 0)",
    )


def _failures(window: str, thresholds: Thresholds) -> str:
    """Frames that the service owed an answer.

    Not those of a code that its caller can avoid, nor those of a deadline shorter than the latency
    objective. Where a frame's size is not known, it had not arrived when its deadline passed.
    """
    codes = "|".join(thresholds.availability.failures)
    selectors = [f'rate(nuclei_request_seconds_count{{{_CALLERS},code=~"{codes}"}}[{window}])']
    for size, bound in thresholds.latency.seconds:
        late = f'{_CALLERS},code="DEADLINE_EXCEEDED",size="{size}"'
        selectors.append(
            f"clamp_min(rate(nuclei_request_seconds_count{{{late}}}[{window}]) - ignoring (le) "
            f'rate(nuclei_request_seconds_bucket{{{late},le="{float(bound)}"}}[{window}]), 0)'
        )
    return "\n  or\n".join(f"  {each}" for each in selectors)


def _latency(window: str, latency: Latency) -> Iterator[Recording]:
    # What is subtracted is read in one query: rules that follow each other may see another scrape.
    series = 'sum by (job, size) (rate(nuclei_request_seconds_{}{{{},size="{}"{}}}[{}]))'
    slow, fast = [], []
    for size, bound in latency.seconds:
        fast.append(series.format("bucket", _ANSWERED, size, f',le="{float(bound)}"', window))
        every = series.format("count", _ANSWERED, size, "", window)
        slow.append(f"clamp_min({every} - {fast[-1]}, 0)")
    bad = f"job_size:nuclei_slow_answers:rate{window}"
    yield Recording(bad, "\nor\n".join(slow))
    yield Recording(f"job_size:nuclei_answers:rate{window}", f"{bad} + (\n{' or '.join(fast)}\n)")
    yield Recording(
        f"job_size:nuclei_slow_answers_per_answer:ratio_rate{window}",
        f"{bad} / (job_size:nuclei_answers:rate{window} > 0)",
    )


def _named(rates: BurnRates) -> Iterator[tuple[str, BurnRate, Severity]]:
    yield "Fast", rates.fast, "page"
    yield "Slow", rates.slow, "page"
    yield "Ticket", rates.ticket, "ticket"


def _availability_alerts(rates: BurnRates, availability: Availability) -> Iterator[Alert]:
    for name, rate, severity in _named(rates):
        yield Alert(
            f"AvailabilityBurn{name}",
            severity,
            _burning(
                "job:nuclei_failures_per_request:ratio_rate",
                "job:nuclei_failures:rate",
                rate,
                1 - availability.objective,
                rates.least_bad_frames,
            ),
            f"Frames fail: their budget of {BUDGET_DAYS} days is gone in less than {_lasts(rate)}",
            f"{PERCENTAGE} of the frames of the last {rate.long} failed, and more than "
            f"{percent(rate.factor * (1 - availability.objective))} of the last {rate.short}; "
            f"{percent(1 - availability.objective)} may.",
            "service",
        )


def _latency_alerts(rates: BurnRates, latency: Latency) -> Iterator[Alert]:
    bounds = "".join(
        f'{{{{ if eq $labels.size "{size}" }}}}{bound:g}{{{{ end }}}}'
        for size, bound in latency.seconds
    )
    for name, rate, severity in _named(rates):
        yield Alert(
            f"LatencyBurn{name}",
            severity,
            _burning(
                "job_size:nuclei_slow_answers_per_answer:ratio_rate",
                "job_size:nuclei_slow_answers:rate",
                rate,
                1 - latency.objective,
                rates.least_bad_frames,
            ),
            f"{label('size')} frames are slow: their budget of {BUDGET_DAYS} days is gone in less "
            f"than {_lasts(rate)}",
            f"{PERCENTAGE} of the {label('size')} frames of the last {rate.long} took longer than "
            f"{bounds} s, and more than {percent(rate.factor * (1 - latency.objective))} of the "
            f"last {rate.short}; {percent(1 - latency.objective)} may.",
            "service",
        )


def _burning(ratio: str, bad: str, rate: BurnRate, budget: float, least: int) -> str:
    bound = f"{rate.factor * budget:.6g}"
    return f"""
        {ratio}{rate.long} > {bound}
        and {ratio}{rate.short} > {bound}
        and {bad}{rate.long} * {seconds(rate.long):g} >= {least}
    """


def _lasts(rate: BurnRate) -> str:
    return f"{BUDGET_DAYS * 24 / rate.factor:.3g} h"

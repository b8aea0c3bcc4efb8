"""PromQL that is written again and again. Selectors are what stands between the braces."""


def rate(counter: str, selector: str = "") -> str:
    """A counter's increase per second."""
    return f"rate({counter}{{{selector}}}[$__rate_interval])"


def total(expression: str, *labels: str) -> str:
    """The sum, for each value of the labels."""
    return f"sum by ({', '.join(labels)}) ({expression})" if labels else f"sum({expression})"


def quantile(share: float, histogram: str, selector: str, *labels: str) -> str:
    """The value that this share of the observations is not above, for each value of the labels."""
    buckets = total(rate(f"{histogram}_bucket", selector), "le", *labels)
    return f"histogram_quantile({share}, {buckets})"


def mean(histogram: str, selector: str, *labels: str) -> str:
    """The mean of the observations, for each value of the labels; none where there are none."""
    return ratio(rate(f"{histogram}_sum", selector), rate(f"{histogram}_count", selector), *labels)


def ratio(part: str, whole: str, *labels: str) -> str:
    """The quotient of two sums, for each value of the labels; none where the whole is 0."""
    return f"{total(part, *labels)} / ({total(whole, *labels)} > 0)"


def share(part: str, whole: str, *labels: str) -> str:
    """The same where the part may have no series: that is a share of 0."""
    all_of_it = total(whole, *labels)
    return f"({total(part, *labels)} or 0 * {all_of_it}) / ({all_of_it} > 0)"


def events(counter: str, window: str, *labels: str) -> str:
    """How often something happened in a window; none where it did not.

    A counter that is new began with its first event, which `increase` does not see.
    """
    new = f"max_over_time({counter}[{window}]) unless {counter} offset {window}"
    return total(f"increase({counter}[{window}]) > 0 or {new}", *labels)

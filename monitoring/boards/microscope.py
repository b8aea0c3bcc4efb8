"""Microscope: does the service keep up with an acquisition, and do its frames look right?"""

from monitoring.boards.choices import INSTANCE, MODEL
from monitoring.panels import Dashboard, Kind, Note, Panel, Query, Row, Unit
from monitoring.promql import mean, quantile, rate, ratio, share, total

STREAM = 'model=~"$model",instance=~"$instance",protocol="stream"'
# Skipped frames are counted without a model: none was asked.
ALL_OF_STREAMS = 'instance=~"$instance",protocol="stream"'
ANSWERED = f'{STREAM},code="OK"'
FRAMES = 'model=~"$model",instance=~"$instance"'
SECONDS = "nuclei_request_seconds"
COUNT = f"{SECONDS}_count"
LONGEST_S = 300.0

KEEPING_UP = Row(
    "Does the service keep up?",
    (
        Panel(
            "Frames of streams",
            "How many frames does the microscope send, and what becomes of them?",
            (Query(total(rate(COUNT, ALL_OF_STREAMS), "code"), "{{code}}"),),
            Unit.FRAMES_PER_SECOND,
            highest=10_000,
            stacked=True,
        ),
        Panel(
            "Share of skipped frames",
            "Which share does the stream's policy skip because frames come too fast?",
            (
                Query(
                    share(
                        rate(COUNT, f'{ALL_OF_STREAMS},code="SKIPPED"'), rate(COUNT, ALL_OF_STREAMS)
                    ),
                    "skipped",
                ),
            ),
            Unit.SHARE,
            highest=1,
        ),
        Panel(
            "Time of an answered frame",
            "How long after its exposure can the microscope act on a frame? A dot is a frame: "
            "follow it to its trace.",
            tuple(
                Query(quantile(q, SECONDS, ANSWERED), f"{q:.0%} within") for q in (0.5, 0.95, 0.99)
            ),
            Unit.SECONDS,
            leads_to="service",
            highest=LONGEST_S,
        ),
        Panel(
            "Mean time of each step",
            "Does a frame wait for its turn, or does the work take long?",
            (Query(mean("nuclei_stage_seconds", STREAM, "stage"), "{{stage}}"),),
            Unit.SECONDS,
            highest=LONGEST_S,
            stacked=True,
            width=12,
        ),
        Panel(
            "Frames held",
            "Do frames pile up at the gateway?",
            (Query('sum(nuclei_frames_in_flight{instance=~"$instance"})', "held"),),
            Unit.COUNT,
            highest=10_000,
            width=12,
        ),
    ),
)

RESULTS = Row(
    "What is found?",
    (
        Panel(
            "Nuclei per frame",
            "Does the count drift as the acquisition goes on?",
            (
                Query(
                    ratio(rate("nuclei_counted_total", STREAM), rate(COUNT, ANSWERED)),
                    "mean",
                ),
            ),
            Unit.COUNT,
            highest=100_000,
        ),
        Panel(
            "Agreement with the previous frame",
            "Does a position look as it did a frame ago, or has the stage or the focus slipped?",
            tuple(
                Query(quantile(q, "nuclei_quality_previous_agreement", FRAMES), f"{q:.0%}")
                for q in (0.1, 0.5)
            ),
            Unit.SHARE,
            highest=1,
        ),
        Panel(
            "Focus",
            "Do the frames stay sharp?",
            tuple(
                Query(quantile(q, "nuclei_quality_focus", FRAMES), f"{q:.0%}") for q in (0.1, 0.5)
            ),
            Unit.RATIO,
            leads_to="quality",
            highest=100,
        ),
        Panel(
            "Doubtful frames, by reason",
            "Which warnings do the replies carry?",
            (
                Query(
                    total(rate("nuclei_quality_doubtful_frames_total", FRAMES), "kind"), "{{kind}}"
                ),
            ),
            Unit.FRAMES_PER_SECOND,
            highest=10_000,
            stacked=True,
            width=12,
        ),
        Panel(
            "Times of answered frames",
            "Are there late frames among punctual ones?",
            (Query(total(rate(f"{SECONDS}_bucket", ANSWERED), "le"), "{{le}}"),),
            Unit.SECONDS,
            Kind.HEATMAP,
            highest=10_000,
            width=12,
        ),
        Note(
            "One position, one frame",
            "Metrics have no labels for acquisitions, positions or frames: there is no bound to "
            "how many of them callers name. The times and counts of one frame are in its trace "
            "(follow a dot), in the gateway's log (`request_id`), and in the table of results that "
            "`nuclei segment` and the client write, which has a row for each frame and position.",
            height=3,
        ),
    ),
)


def microscope() -> Dashboard:
    """Does the service keep up with an acquisition, and do its frames look right?"""
    return Dashboard(
        "microscope",
        "Microscope",
        "Does the service keep up with an acquisition, and do its frames look right? "
        "Choose the time of the acquisition at the top right.",
        (KEEPING_UP, RESULTS),
        (MODEL, INSTANCE),
    )

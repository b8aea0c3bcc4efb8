"""The report of a gateway on challengers: what `GET /v1/rollout` answers, and who reads it.

It is about one gateway since `since`: a gateway that restarts counts from 0 under another
`gateway`, and a new champion or challenger begins a new trial. Whoever adds gateways up compares
`gateway`, `champion` and `challenger` before it takes differences.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from nuclei.names import MAX_VERSION

# The longest report that a gateway writes, with all of its pictures.
MAX_REPORT_BYTES = 2**24
# Of one model; with many models each shows fewer.
MAX_PICTURES = 8
MAX_PICTURES_IN_ALL = 40
# Of one picture as PNG; larger ones are left out.
MAX_PICTURE_BYTES = 2**18
PATH = "/v1/rollout"

Version = Annotated[int, Field(ge=1, le=MAX_VERSION)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Text = Annotated[str, Field(max_length=1024)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Latency(_Part):
    """Times of the newest frames, milliseconds.

    Attributes:
        frames: of which they are.
        p50, p90, p99: quantiles; 0 without frames.
    """

    frames: Count = 0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0


class Agreement(_Part):
    """AP@.5 of the challenger's nuclei against the champion's, of the newest compared frames.

    Attributes:
        frames: of which it is.
        mean: over them; None without frames.
        p05, p25, p50: quantiles.
    """

    frames: Count = 0
    mean: Share | None = None
    p05: Share | None = None
    p25: Share | None = None
    p50: Share | None = None


class Shadow(_Part):
    """Frames that the challenger segmented as well, after the champion had answered.

    Attributes:
        fraction: of the frames that are chosen.
        chosen: compared + failed + dropped, and at most one in work.
        compared: labels were compared.
        failed: the challenger failed on a frame that the champion had answered.
        dropped: not segmented, by reason: there was no room, or the challenger could not be blamed.
        error_rate: failed / (compared + failed) of the newest frames.
        agreement: with the champion.
        champion_nuclei, challenger_nuclei: found in all compared frames.
        champion_tile_ms, challenger_tile_ms: inference of the first tile of each frame by the one
            and the other, one after the other in turn, while nothing else was in work.
    """

    fraction: Share
    chosen: Count
    compared: Count
    failed: Count
    dropped: Annotated[dict[Name, Count], Field(max_length=16)]
    error_rate: Share
    agreement: Agreement
    champion_nuclei: Count
    challenger_nuclei: Count
    champion_tile_ms: Latency
    challenger_tile_ms: Latency


class Canary(_Part):
    """Frames of the callers whom the challenger answers.

    Attributes:
        fraction: of the callers.
        answered: by the challenger.
        failed: the challenger failed; the champion answered instead.
        error_rate: failed / (answered + failed) of the newest frames.
        champion_ms, challenger_ms: time per megapixel of tiles from the first tile to the nuclei,
            of frames that the one and the other answered in the same time.
    """

    fraction: Share
    answered: Count
    failed: Count
    error_rate: Share
    champion_ms: Latency
    challenger_ms: Latency


class WorstFrame(_Part):
    """A frame on which the two agree least.

    Attributes:
        request_id: of the caller who sent it.
        at: when it was compared, seconds since 1970.
        agreement: AP@.5.
        champion_nuclei, challenger_nuclei: found in it.
        png: base64 of a PNG picture: the frame, outlined by the champion in blue and by the
            challenger in orange.
    """

    request_id: Annotated[str, Field(max_length=128)]
    at: float
    agreement: Share
    champion_nuclei: Count
    challenger_nuclei: Count
    png: Annotated[str, Field(max_length=MAX_PICTURE_BYTES * 4 // 3 + 4, repr=False)]


class ModelRollout(_Part):
    """One challenger on trial.

    Attributes:
        model: its name.
        champion, challenger: versions.
        since: when this gateway began the trial, seconds since 1970.
        verdict: `running`, or `aborted`: this gateway sends the challenger no more frames until the
            routing names another.
        reason: why it was aborted, a sentence; empty while it runs.
        shadow, canary: what was found.
        worst: frames on which the two agree least, the worst first.
    """

    model: Name
    champion: Version
    challenger: Version
    since: float
    verdict: Literal["running", "aborted"]
    reason: Text = ""
    shadow: Shadow
    canary: Canary
    worst: Annotated[list[WorstFrame], Field(max_length=MAX_PICTURES)]


class RolloutReport(_Part):
    """All challengers of a gateway.

    Attributes:
        gateway: a new name each time that a gateway starts.
        models: those with a challenger, by name.
    """

    gateway: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    models: Annotated[list[ModelRollout], Field(max_length=64)]

"""The messages of a stream: its settings, its frames and their outcomes."""

from __future__ import annotations

from collections.abc import Collection

from nuclei import errors
from nuclei.client.acquisition import (
    FrameIndex,
    FrameLike,
    Outcome,
    StagePosition,
    StreamFrame,
)
from nuclei.client.arguments import checked, seconds, set_field
from nuclei.client.messages import (
    named_error,
    request_with,
    segmentation_of,
    write_frame,
)
from nuclei.imaging.frame_options import FrameOptions
from nuclei.results.adjustments import Adjustments
from nuclei.v1 import segmentation_pb2 as pb

OVERFLOW = {
    "block": pb.OVERFLOW_POLICY_BLOCK,
    "drop_oldest": pb.OVERFLOW_POLICY_DROP_OLDEST,
    "latest_only": pb.OVERFLOW_POLICY_LATEST_ONLY,
}


class StreamMessages:
    """The messages of one stream, and the outcomes that its answers stand for."""

    def __init__(
        self,
        *,
        overflow: str,
        queue_size: int,
        model: str,
        version: int | str | None,
        tta: bool,
        outputs: Collection[str],
        adjustments: Adjustments,
        options: FrameOptions,
        timeout_s: float,
    ) -> None:
        """Check the options of all frames; raises InvalidOption."""
        self._settings = pb.StreamSettings()
        with checked("overflow", overflow, f"one of {', '.join(OVERFLOW)}"):
            self._settings.overflow = OVERFLOW[overflow]
        set_field(self._settings, "queue_size", queue_size, "a number of frames")
        self._request = request_with(model, version, tta, outputs, adjustments)
        self._timeout_s = seconds(timeout_s)
        self._options = options
        self._count = 0
        # Of frames without an outcome: the warnings of reading them, or why they cannot be sent.
        self._sent: dict[int, tuple[str, ...] | errors.NucleiError] = {}

    def settings(self) -> pb.SegmentStreamRequest:
        """The first message."""
        return pb.SegmentStreamRequest(settings=self._settings)

    def frame(self, given: FrameLike | StreamFrame) -> pb.SegmentStreamRequest:
        """The message of the next frame.

        One that cannot be sent goes without its image, so that its answer keeps its place in the
        order.
        """
        frame = given if isinstance(given, StreamFrame) else StreamFrame(given)
        message = pb.SegmentStreamRequest()
        message.frame.request.CopyFrom(self._request)
        timeout_s = self._timeout_s
        try:
            self._sent[self._count] = write_frame(message.frame.request, frame, self._options)
            if frame.timeout_s is not None:
                timeout_s = seconds(frame.timeout_s)
        except errors.NucleiError as error:
            message.frame.request.frame.ClearField("image")
            self._sent[self._count] = error
        message.frame.timeout_ms = max(1, round(timeout_s * 1e3))
        self._count += 1
        return message

    def outcome(self, answer: pb.SegmentStreamResponse) -> Outcome:
        """The outcome that an answer stands for."""
        index = stage_position = segmentation = error = None
        sent = self._sent.pop(answer.sequence, ())
        if answer.HasField("index"):
            echoed = answer.index
            index = FrameIndex(
                echoed.acquisition_uid, echoed.position, echoed.t, echoed.c, echoed.z
            )
        if answer.HasField("stage_position"):
            place = answer.stage_position
            z_um = place.z_um if place.HasField("z_um") else None
            stage_position = StagePosition(place.x_um, place.y_um, z_um)
        if answer.HasField("result"):
            warnings = () if isinstance(sent, errors.NucleiError) else sent
            segmentation = segmentation_of(answer.result, warnings)
        elif not answer.HasField("skipped"):
            failure = answer.error
            error = named_error(failure.name, failure.message, failure.retry_after_ms / 1e3)
            if isinstance(sent, errors.NucleiError):
                error = sent
        return Outcome(
            sequence=answer.sequence,
            request_id=answer.request_id,
            index=index,
            stage_position=stage_position,
            segmentation=segmentation,
            error=error,
            skipped=answer.skipped.reason,
        )

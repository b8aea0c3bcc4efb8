"""The one path of a frame through the gateway, for every protocol."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from nuclei.client.acquisition import FrameIndex
from nuclei.errors import (
    DeadlineExceeded,
    EngineUnavailable,
    ModelNotFound,
    NucleiError,
    Overloaded,
)
from nuclei.formats import Check
from nuclei.formats.png import encode_png
from nuclei.imaging.decoding import Header
from nuclei.imaging.frame_options import FrameOptions
from nuclei.imaging.images import Frame, FrameLimits
from nuclei.inference import pipeline
from nuclei.inference.deadline import Deadline
from nuclei.inference.engine import ServedVersion
from nuclei.inference.graph import TTA_VIEWS, with_views
from nuclei.inference.memory import adjusted_memory_bytes
from nuclei.inference.pipeline import Stopwatch
from nuclei.inference.threads import in_thread
from nuclei.names import check_id, check_name, version_number
from nuclei.results.adjustments import AS_TUNED, Adjustments
from nuclei.results.quality import Quality
from nuclei.results.segmentation import Segmentation
from nuclei.version import installed_version
from serving.decoding.decoders import Decoder, Decoders, decoding_bytes, probing_bytes
from serving.engine import TritonEngine
from serving.gateway.admission import Admission, Permit
from serving.gateway.live import Live
from serving.gateway.observation import Observation, only_known_errors
from serving.gateway.progress import Progress
from serving.gateway.quality import PreviousFrames
from serving.gateway.resolver import Resolver
from serving.gateway.routing import Route, Router, ServedModel
from serving.gateway.settings import GatewaySettings
from serving.gateway.shadow import ShadowedFrame, Shadows
from serving.rollout_report import RolloutReport

READINESS_TIMEOUT_S = 1.0
# Sent to see that the way is free.
SMALL_FRAME = encode_png(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64))
SMALL_FRAME_S = 10.0
# Memory of a reply is reserved for nuclei of this area, side by side.
SMALLEST_NUCLEUS_PX = 100
# The steps of a frame that depend on the version.
SEGMENTING = ("tile", "infer", "postprocess", "measure", "quality")
# How often a frame is begun anew because its version was unloaded.
_VERSION_CHANGES = 3

Result = TypeVar("Result")


@dataclass(frozen=True)
class Options:
    """How a frame is to be segmented.

    Attributes:
        request_id: names the request in the log and the reply; empty makes a new one.
        model: name of the model; empty for the default one.
        version: the version that is to answer; None for the one in use.
        tta: whether to average over the 8 rotations and reflections.
        deadline: when the caller gives up; None for the default.
        key: what frames have in common that one version is to answer, such as an acquisition;
            empty for a frame by itself.
        index: place of the frame in its acquisition.
        adjustments: in place of what the model was tuned to.
    """

    request_id: str = ""
    model: str = ""
    version: int | None = None
    tta: bool = False
    deadline: Deadline | None = None
    key: str = ""
    index: FrameIndex = field(default_factory=FrameIndex)
    adjustments: Adjustments = AS_TUNED

    def __post_init__(self) -> None:
        """Raises InvalidOption for an id, a name or a version that is none."""
        if not self.request_id:
            object.__setattr__(self, "request_id", uuid.uuid4().hex)
        if not self.key:
            object.__setattr__(self, "key", self.request_id)
        check_id(self.request_id, "request_id")
        if self.model:
            check_name(self.model, "model")
        if self.version is not None:
            version_number(self.version)


@dataclass(frozen=True)
class Encoding(Generic[Result]):
    """How a reply is made.

    Attributes:
        encode: makes the reply of the result and its frame; called in the executor, with a check
            that ends it once nobody waits for the reply.
        bytes_per_px, bytes_per_nucleus: memory that this takes, besides the frame and its labels.
    """

    encode: Callable[[Segmentation, Frame, Check], Result]
    bytes_per_px: int
    bytes_per_nucleus: int

    def memory_bytes(self, header: Header, nuclei: int) -> int:
        """Memory of the frame, its labels and this, at most."""
        labels_bytes = 4
        of_px = header.channels * header.itemsize + labels_bytes + self.bytes_per_px
        return header.height * header.width * of_px + nuclei * self.bytes_per_nucleus


class FrameSource(Protocol):
    """A frame as its protocol delivers it.

    Attributes:
        file: an image file, which a decoder is to read; None for pixels, and once it was taken.
    """

    file: bytes | None

    def frame_options(self) -> FrameOptions:
        """How it is to be read; raises InvalidOption for what is impossible."""
        ...

    def take(self, decoded: Frame) -> None:
        """Hold this frame, which is what the file holds."""
        ...

    def probe(self, limits: FrameLimits) -> Header:
        """The size of its pixels; errors as `read`."""
        ...

    def read(self, limits: FrameLimits) -> Frame:
        """The frame, once there is no file; runs in the executor.

        Raises:
            InvalidImage, FrameTooLarge: it cannot be used.
            InvalidOption: what came with it is impossible.
        """
        ...


@dataclass(frozen=True)
class ServerInfo:
    """What is served, and within which limits.

    Attributes:
        server_version: version of this software.
        models: the models served now, by name.
        default_model: the model of a request that names none.
        limits: the largest frame.
        default_timeout_s: time of a request without a deadline, seconds.
        max_frames_in_flight: most frames held at once, waiting or in work.
        max_bytes_in_flight: most memory reserved for them.
    """

    server_version: str
    models: list[ServedModel]
    default_model: str
    limits: FrameLimits
    default_timeout_s: float
    max_frames_in_flight: int
    max_bytes_in_flight: int


@dataclass(frozen=True)
class _Work:
    """A frame that was read, and what goes with it.

    Attributes:
        frame: its pixels.
        options: how to segment it.
        observation: notes what happens.
        permit: its place and memory.
    """

    frame: Frame
    options: Options
    observation: Observation
    permit: Permit

    @property
    def header(self) -> Header:
        height, width, channels = self.frame.pixels.shape
        return Header(height, width, channels, self.frame.pixels.itemsize)


class DataPlane:
    """Segments frames with an engine; the event loop only waits.

    Attributes:
        admission: gives the permits that `segment` asks for.
        progress: whether frames, or steps of them, are completed.
        resolver: follows the addresses of Triton's name.
        router: which version of a model answers.
        shadows: show frames to challengers.
        live: tells watchers of the frames of streams.
    """

    def __init__(
        self,
        engine: TritonEngine,
        decoders: Decoders,
        executor: Executor,
        settings: GatewaySettings,
    ) -> None:
        """Connect the parts.

        Args:
            engine: where the graphs run.
            decoders: where image files are decoded.
            executor: where frames are post-processed and results encoded.
            settings: limits and defaults.
        """
        self.admission = Admission(
            settings.max_frames_in_flight, settings.max_bytes_in_flight, settings.max_frames_in_work
        )
        self.progress = Progress(lambda: engine.answered_s)
        self.resolver = Resolver(settings.triton_names, engine.reach)
        self.router = Router(engine, settings.rollout_bounds)
        self.shadows = Shadows(engine, self.admission)
        self.live = Live()
        self._previous = PreviousFrames()
        self._name = uuid.uuid4().hex
        self._engine = engine
        self._decoders = decoders
        self._executor = executor
        self._settings = settings

    async def segment(
        self,
        source: FrameSource,
        options: Options,
        encoding: Encoding[Result],
        observation: Observation,
        permit: Permit,
    ) -> Result:
        """Segment one frame, once it is its turn.

        Args:
            source: the frame.
            options: how to segment it.
            encoding: makes the reply.
            observation: notes what happens.
            permit: the frame's place; covers all of its memory from here on.

        Raises:
            NucleiError: any of the tree.
        """
        observation.request_id = options.request_id
        deadline = options.deadline or Deadline.after(self._settings.default_timeout_s)
        async with self._in_time(deadline) as stack:
            model = options.model or self._settings.default_model
            # First: an unknown model or a dead server is answered before any work.
            route = await self._route(model, options)
            observation.graph = with_views(model, options.tta)
            observation.as_tuned = options.adjustments == AS_TUNED
            with observation.timed("wait"):
                await stack.enter_async_context(permit.turn())
            deadline.check("while the frame waited")
            with observation.timed("decode"):
                either = route.champion, route.served
                needed = partial(_segmenting_bytes, served=either, options=options)
                frame = await self._read(source, permit, needed, stack)
            work = _Work(frame, options, observation, permit)
            # Before the work, which would be for nothing.
            permit.resize(max(permit.n_bytes, self._encoding_bytes(encoding, work.header)))
            self.progress.note_step()
            observation.note_frame(frame.pixels)
            route = await self._route(model, options)
            segmentation = await self._segment(work, route, deadline)
            observation.note_result(segmentation)
            # Nobody waits here for memory: two that have most of it would wait for each other.
            found_bytes = encoding.memory_bytes(work.header, len(segmentation.nuclei))
            permit.resize(max(permit.n_bytes, found_bytes))
            with observation.timed("encode"):
                encoded: tuple[Segmentation, Result] = await in_thread(
                    self._executor,
                    deadline,
                    self._encode,
                    encoding,
                    segmentation,
                    frame,
                    options.index,
                    observation.graph,
                )
            segmentation, reply = encoded
            observation.note_result(segmentation)
            self.progress.note_frame()
            if route.trial is not None and route.shadow:
                self.shadows.offer(
                    ShadowedFrame(options.request_id, frame, segmentation, options.tta, route.trial)
                )
            return reply

    async def read(
        self,
        source: FrameSource,
        deadline: Deadline | None,
        encode: Callable[[Frame, Check], Result],
        stopwatch: Stopwatch,
        permit: Permit,
    ) -> Result:
        """Read one frame as it would be segmented, once it is its turn.

        Args:
            source: the frame.
            deadline: when the caller gives up; None for the default.
            encode: makes the reply, no larger than the pixels; called in the executor.
            stopwatch: times the steps.
            permit: the frame's place; covers all of its memory from here on.

        Raises:
            NucleiError: any of the tree.
        """
        deadline = deadline or Deadline.after(self._settings.default_timeout_s)
        async with self._in_time(deadline) as stack:
            with stopwatch.timed("wait"):
                await stack.enter_async_context(permit.turn())
            with stopwatch.timed("decode"):
                frame = await self._read(source, permit, _reply_bytes, stack)
            self.progress.note_step()
            with stopwatch.timed("encode"):
                return await in_thread(self._executor, deadline, encode, frame)

    async def taken(self, pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
        """Pieces that are made in the executor, each once the one before was taken.

        Raises:
            InternalError: one cannot be made.
        """
        loop = asyncio.get_running_loop()
        with only_known_errors():
            while (
                piece := await loop.run_in_executor(self._executor, next, pieces, None)
            ) is not None:
                yield piece

    def _encoding_bytes(self, encoding: Encoding[Any], header: Header) -> int:
        """Memory of the reply before the nuclei are counted: of a frame that is full of them.

        Where the service never has so much, of a frame without any: few of that size are full.
        """
        nuclei = header.height * header.width // SMALLEST_NUCLEUS_PX
        full = encoding.memory_bytes(header, nuclei)
        fits = full <= self._settings.max_bytes_in_flight
        return full if fits else encoding.memory_bytes(header, 0)

    @asynccontextmanager
    async def _in_time(self, deadline: Deadline) -> AsyncIterator[AsyncExitStack]:
        """A stack for what a frame holds; raises DeadlineExceeded inside once its time is over."""
        timeout_s = deadline.left_s()
        try:
            async with asyncio.timeout(timeout_s), AsyncExitStack() as stack:
                yield stack
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"the frame was not done within {timeout_s:.3g} s; allow more time or send fewer "
                "frames at once"
            ) from error

    async def _route(self, model: str, options: Options) -> Route:
        route = await self.router.route(model, options.version, options.key)
        # A trial compares versions as they were tuned.
        return route if options.adjustments == AS_TUNED else Route(route.champion)

    async def _segment(self, work: _Work, route: Route, deadline: Deadline) -> Segmentation:
        """The nuclei of a frame, by one version; by the champion where the challenger fails."""
        trial = route.trial
        if trial is None:
            return await self._by_champion(work, route, deadline)
        pixels = _inferred_pixels(work.frame, route.served, work.options.tta)
        left_s = deadline.left_s()
        if not route.canary or not trial.leaves_time(pixels, left_s):
            segmentation = await self._by_champion(work, route, deadline)
            trial.note_champion(_segmenting_ms(segmentation) / pixels)
            return segmentation
        # What the challenger leaves is enough for the champion.
        half = Deadline.after(None if left_s is None else left_s / 2)
        try:
            with only_known_errors():
                segmentation = await self._by(trial.challenger, work, half)
        except NucleiError as error:
            failed = error
        else:
            trial.note_answered(_segmenting_ms(segmentation) / pixels)
            return segmentation
        segmentation = await self._by_champion(work, route, deadline)
        # What the champion cannot answer either is not the challenger's failure.
        if not isinstance(failed, EngineUnavailable | Overloaded):
            trial.note_canary_failed(work.options.request_id, failed)
        return segmentation

    async def _by_champion(self, work: _Work, route: Route, deadline: Deadline) -> Segmentation:
        """The nuclei of a frame, by the champion or the version that was asked for.

        A version that is unloaded meanwhile is not the caller's concern, unless it was asked for:
        the frame is segmented anew, as a whole, by the one that is in use now.
        """
        served = route.champion
        for _ in range(_VERSION_CHANGES):
            try:
                return await self._by(served, work, deadline)
            except ModelNotFound:
                await self.router.refresh()
                served = await self.router.find(served.model, work.options.version)
        raise EngineUnavailable(
            f"'{served.model}' is not loaded at the moment; send again once the service is ready"
        )

    async def _by(self, served: ServedVersion, work: _Work, deadline: Deadline) -> Segmentation:
        """The nuclei of a frame, by this version."""
        # It may be another than those that the frame was read for.
        needed_bytes = _segmenting_bytes(work.header, [served], work.options)
        work.permit.resize(max(work.permit.n_bytes, needed_bytes))
        work.observation.method = served.contract.method.name
        work.observation.reference = served.contract.quality
        return await pipeline.segment(
            work.frame,
            self._engine,
            served,
            tta=work.options.tta,
            adjustments=work.options.adjustments,
            deadline=deadline,
            executor=self._executor,
            stopwatch=work.observation,
        )

    def _encode(
        self,
        encoding: Encoding[Result],
        segmentation: Segmentation,
        frame: Frame,
        index: FrameIndex,
        graph: str,
        check: Check,
    ) -> tuple[Segmentation, Result]:
        """The result with its agreement with the previous frame of its place, and the reply."""
        agreement = self._previous.compare(segmentation.labels, index, graph, segmentation.version)
        if agreement is not None:
            quality = replace(segmentation.quality or Quality(), previous_agreement=agreement)
            segmentation = replace(segmentation, quality=quality)
        return segmentation, encoding.encode(segmentation, frame, check)

    async def _read(
        self,
        source: FrameSource,
        permit: Permit,
        needed: Callable[[Header], int],
        stack: AsyncExitStack,
    ) -> Frame:
        """The frame; its memory is reserved before it is taken."""
        limits = self._settings.frame_limits
        # A frame that is read again may have waited for more than that.
        least_bytes = permit.n_bytes
        if source.file is not None:
            # The decoder is kept for the time of the frame, whose pixels are in its memory.
            decoder = await stack.enter_async_context(self._decoder(permit))
            source.take(await self._decoded(source, decoder, permit, needed))
            least_bytes = 0
        header = source.probe(limits)
        permit.resize(max(least_bytes, needed(header)))
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, source.read, limits)

    @asynccontextmanager
    async def _decoder(self, permit: Permit) -> AsyncIterator[Decoder]:
        """A decoder; where it is left in the middle of a file, the turn lasts until it is replaced.

        So whoever has a turn finds a decoder at once, however many callers leave.
        """
        async with self._decoders.decoder() as decoder:
            try:
                yield decoder
            finally:
                if not decoder.between:
                    permit.extend_turn(decoder.replaced)

    async def _decoded(
        self,
        source: FrameSource,
        decoder: Decoder,
        permit: Permit,
        needed: Callable[[Header], int],
    ) -> Frame:
        """The frame in the file of the source: a small file may hold a large frame."""
        assert source.file is not None
        file_bytes = len(source.file)
        permit.resize(max(permit.n_bytes, probing_bytes(file_bytes)))
        limits, options = self._settings.frame_limits, source.frame_options()
        header = await decoder.probe(source.file, limits, options)
        permit.resize(max(decoding_bytes(file_bytes, header), needed(header)))
        source.file = None  # its decoder has it
        return await decoder.read(header)

    async def server_info(self) -> ServerInfo:
        """What is served now; raises EngineUnavailable when Triton does not answer."""
        return ServerInfo(
            server_version=installed_version(),
            models=await self.router.models(),
            default_model=self._settings.default_model,
            limits=self._settings.frame_limits,
            default_timeout_s=self._settings.default_timeout_s,
            max_frames_in_flight=self._settings.max_frames_in_flight,
            max_bytes_in_flight=self._settings.max_bytes_in_flight,
        )

    def rollout(self) -> RolloutReport:
        """What was found out about challengers."""
        return RolloutReport(gateway=self._name, models=self.router.rollouts())

    async def is_ready(self) -> bool:
        """Whether the graphs of the default model would answer now, and frames go all the way."""
        model = self._settings.default_model
        if not self.progress.is_ready:
            return False
        try:
            served = await self.router.find(model)
        except NucleiError:
            return False
        graphs = [served.graph_for(tta) for tta in (False, True)]
        return await self._engine.are_ready(graphs, READINESS_TIMEOUT_S)

    async def watch_progress(self) -> None:
        """As long as it runs, send a small frame all the way whenever nothing else is completed."""
        await self.progress.watch(self._segment_small_frame)

    async def _segment_small_frame(self) -> None:
        """Take the way of a frame, without a permit: it is no caller's, and is not counted."""
        async with asyncio.timeout(SMALL_FRAME_S), self._decoders.decoder() as decoder:
            frame = await decoder.read(await decoder.probe(SMALL_FRAME, FrameLimits()))
            self.progress.note_step()
            await pipeline.segment(
                frame,
                self._engine,
                await self.router.find(self._settings.default_model),
                deadline=Deadline.after(SMALL_FRAME_S),
                executor=self._executor,
            )
        self.progress.note_frame()


def _segmenting_bytes(header: Header, served: Iterable[ServedVersion], options: Options) -> int:
    """Memory that the frame takes, whichever of them answers."""
    return max(
        adjusted_memory_bytes(
            header.height,
            header.width,
            header.channels,
            header.itemsize,
            each.contract,
            options.adjustments,
            tta=options.tta,
        )
        for each in served
    )


def _reply_bytes(header: Header) -> int:
    """Memory of a frame, which has 8 or 16 bit, and of a reply with its pixels."""
    return 2 * 2 * header.height * header.width * header.channels


def _segmenting_ms(segmentation: Segmentation) -> float:
    return sum(segmentation.stage_ms[stage] for stage in SEGMENTING)


def _inferred_pixels(frame: Frame, served: ServedVersion, tta: bool) -> float:
    """Megapixels of all tiles and views of a frame."""
    height, width = frame.pixels.shape[:2]
    plan = served.contract.plan(height, width, tta=tta)
    return len(plan.tiles) * plan.tile_px * (TTA_VIEWS if tta else 1) / 1e6

"""The panel of the plugin: an image, a gateway and a model; a button, and a switch to follow."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from magicgui.widgets import CheckBox, ComboBox, Container, LineEdit, Password, PushButton, TextEdit
from napari.layers import Image, Labels
from napari.qt.threading import create_worker
from napari.utils.events import EventEmitter
from napari.viewer import Viewer

from nuclei.client import Client, Outcome, StreamFrame
from nuclei.errors import InvalidOption, NucleiError
from nuclei.napari.layers import Shown, show
from nuclei.results.adjustments import Adjustments
from nuclei.results.segmentation import Segmentation

OUTPUTS = ("labels", "centroids", "features")
# How often a worker without a plane looks whether napari ends, which waits for it.
LOOK_S = 0.2


class NucleiWidget(Container):
    """Segments the plane of an image that is shown: once, or whenever it changes."""

    def __init__(self, napari_viewer: Viewer) -> None:
        self._viewer = napari_viewer
        self._following: _Following | None = None
        self.image = ComboBox(label="image", choices=self._images)
        self.address = LineEdit(label="gateway", value="localhost:50051")
        self.token = Password(label="token", tooltip="where the gateway asks for one")
        self.model = LineEdit(label="model", tooltip="empty: the gateway's default one")
        self.tta = CheckBox(text="average over 8 views: better, slower")
        self.threshold = LineEdit(label="threshold", tooltip="0 to 1; lower finds more")
        self.min_area = LineEdit(label="min area", tooltip="pixels; smaller nuclei are left out")
        self.diameter = LineEdit(
            label="diameter", tooltip="pixels; for nuclei that are far larger or smaller than most"
        )
        self.segment = PushButton(text="Segment")
        self.follow = CheckBox(text="follow: segment whatever is shown next")
        self.said = TextEdit()
        self.said.read_only = True
        super().__init__(
            widgets=[
                *(self.image, self.address, self.token, self.model, self.tta),
                *(self.threshold, self.min_area, self.diameter),
                *(self.segment, self.follow, self.said),
            ]
        )
        self.segment.changed.connect(self._segment)
        self.follow.changed.connect(self._follow)
        layers = napari_viewer.layers.events
        for event in (layers.inserted, layers.removed, layers.reordered):
            event.connect(self._list_images)
        self.native.destroyed.connect(self._stop)

    def _images(self, *_: object) -> list[Image]:
        return [layer for layer in self._viewer.layers if isinstance(layer, Image)]

    def _list_images(self, *_: object) -> None:
        self.image.reset_choices()

    def _segment(self, *_: object) -> None:
        try:
            shown, client, options = self._shown(), self._client(), self._options()
        except NucleiError as error:
            self._say(error)
            return
        self.segment.enabled = False
        worker = create_worker(_asked, client, shown, options)
        worker.yielded.connect(partial(self._take, shown))
        worker.finished.connect(partial(setattr, self.segment, "enabled", True))
        worker.start()

    def _follow(self, on: bool) -> None:
        self._stop()
        if not on:
            return
        try:
            shown, client, options = self._shown(), self._client(), self._options()
        except NucleiError as error:
            self._say(error)
            self.follow.value = False
            return
        following = _Following(shown.layer)
        worker = create_worker(following.outcomes, client, options)
        following.worker = worker
        worker.yielded.connect(partial(self._take_next, following))
        worker.start()
        self._following = following
        for event in following.changes(self._viewer):
            event.connect(self._send)
        self._send()

    def _send(self, *_: object) -> None:
        if self._following is not None:
            self._following.send(Shown.of(self._following.layer, self._viewer))

    def _stop(self, *_: object) -> None:
        if self._following is not None:
            for event in self._following.changes(self._viewer):
                event.disconnect(self._send)
            self._following.end()
            self._following = None

    def _take_next(self, following: _Following, outcome: Outcome | NucleiError) -> None:
        if isinstance(outcome, NucleiError):
            self._say(outcome)
            self.follow.value = False
            return
        shown = following.waiting.pop(outcome.sequence)
        found = outcome.segmentation or outcome.error
        if found is not None and following is self._following:
            following.labels = self._take(shown, found, following.labels)

    def _take(
        self, shown: Shown, found: Segmentation | NucleiError, into: Labels | None = None
    ) -> Labels | None:
        """Show nuclei, in a new layer or an old one, or say why there are none."""
        if isinstance(found, NucleiError):
            self._say(found)
            return into
        count = f"{len(found.nuclei)} nuclei by {found.model} {found.version}"
        self.said.value = "\n".join([count, *found.warnings])
        return show(found, shown, self._viewer, into)

    def _say(self, error: NucleiError) -> None:
        self.said.value = f"{type(error).__name__}: {error}"

    def _shown(self) -> Shown:
        if self.image.value is None:
            raise InvalidOption("there is no image to segment; open one")
        return Shown.of(self.image.value, self._viewer)

    def _client(self) -> Callable[[], Client]:
        return partial(Client, self.address.value, token=self.token.value)

    def _options(self) -> dict[str, Any]:
        """For `Client.segment` and `Client.stream`; raises InvalidOption."""
        adjustments = Adjustments.of_text(
            self.threshold.value, self.min_area.value, self.diameter.value
        )
        return {
            "model": self.model.value,
            "tta": self.tta.value,
            "outputs": OUTPUTS,
            **asdict(adjustments),
        }


def _asked(
    client: Callable[[], Client], shown: Shown, options: dict[str, Any]
) -> Iterator[Segmentation | NucleiError]:
    """The nuclei or why there are none; yielded, as napari raises an error that is returned."""
    try:
        with client() as connected:
            yield connected.segment(shown.pixels, pixel_size_um=shown.pixel_size_um, **options)
    except NucleiError as error:
        yield error


@dataclass(eq=False)
class _Following:
    """A layer whose planes go to the gateway as they are shown; the newest before older ones.

    Attributes:
        layer: that is followed.
        waiting: planes without an outcome, by their number in the stream.
        labels: the layer that shows the nuclei; None before the first.
        worker: of napari, in which `outcomes` runs; None before it is made.
    """

    layer: Image
    labels: Labels | None = None
    worker: Any = None
    waiting: dict[int, Shown] = field(default_factory=dict)
    _frames: queue.SimpleQueue[Shown | None] = field(default_factory=queue.SimpleQueue)
    _sent: int = 0

    def changes(self, viewer: Viewer) -> tuple[EventEmitter, ...]:
        """What is emitted when other data, or another plane of them, are shown."""
        return self.layer.events.data, viewer.dims.events.current_step

    def send(self, shown: Shown) -> None:
        """The next plane."""
        self.waiting[self._sent] = shown
        self._sent += 1
        self._frames.put(shown)

    def end(self) -> None:
        """No more planes come."""
        self._frames.put(None)

    def outcomes(
        self, client: Callable[[], Client], options: dict[str, Any]
    ) -> Iterator[Outcome | NucleiError]:
        """What becomes of each plane; ends with the error that ends the stream."""
        try:
            with client() as connected:
                yield from connected.stream(self._streamed(), overflow="latest_only", **options)
        except NucleiError as error:
            yield error

    def _streamed(self) -> Iterator[StreamFrame]:
        while not self.worker.abort_requested:
            try:
                shown = self._frames.get(timeout=LOOK_S)
            except queue.Empty:
                continue
            if shown is None:
                return
            yield StreamFrame(shown.pixels, pixel_size_um=shown.pixel_size_um)

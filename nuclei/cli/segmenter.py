"""How a command segments frames: with a running gateway, or with the model files themselves."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nuclei.cli.gateway import Gateway
from nuclei.errors import EngineUnavailable
from nuclei.repository import default_repository
from nuclei.results.adjustments import AS_TUNED, Adjustments

if TYPE_CHECKING:
    from nuclei.client import Client
    from nuclei.imaging.images import Frame
    from nuclei.results.segmentation import Segmentation

Segmenter = Callable[["Frame"], "Segmentation"]

DEFAULT_REPOSITORY = default_repository()
GATEWAY_TIMEOUT_S = 600.0

ModelOption = Annotated[str, typer.Option(help="Name of the model.")]
VersionOption = Annotated[
    int | None,
    typer.Option(help="Version of the model [the one in use].", min=1, show_default=False),
]
TtaOption = Annotated[
    bool, typer.Option("--tta", help="Average over 8 rotated and mirrored views: better, slower.")
]
LocalOption = Annotated[
    bool, typer.Option("--local", help="Run the model in this process, without a server.")
]
_ADJUSTING = "Sensitivity; without them the model is used as it was tuned"
ThresholdOption = Annotated[
    str,
    typer.Option(
        help="Foreground probability from which a pixel belongs to a nucleus (of models that find "
        "nuclei one by one: the least score of one), 0 to 1. Lower finds more, and more that is "
        "none; `nuclei models` names the tuned one.",
        metavar="P",
        rich_help_panel=_ADJUSTING,
    ),
]
MinAreaOption = Annotated[
    str,
    typer.Option(
        help="Leave out nuclei of fewer pixels.", metavar="PIXELS", rich_help_panel=_ADJUSTING
    ),
]
DiameterOption = Annotated[
    str,
    typer.Option(
        help="What nuclei measure across, pixels: the frame is resampled so that they have the "
        "size that the model was tuned to. For nuclei that are far larger or smaller.",
        metavar="PIXELS",
        rich_help_panel=_ADJUSTING,
    ),
]
RepositoryOption = Annotated[Path, typer.Option(help="Model repository used by --local.")]


@dataclass(frozen=True)
class Opener:
    """Opens a function that segments one frame, here or in another process.

    Attributes:
        model: name of the model.
        version: of the model; None for the one that its name means.
        tta: average over the eight rotated and mirrored views.
        local: run the files of `repository` in the process that opens it instead of asking the
            gateway.
        gateway: its address and credentials.
        repository: folder of Triton models.
        adjustments: in place of what the model was tuned to.
    """

    model: str
    version: int | None
    tta: bool
    local: bool
    gateway: Gateway
    repository: Path
    adjustments: Adjustments = AS_TUNED

    @contextmanager
    def __call__(self, threads: int = 0) -> Iterator[Segmenter]:
        """Open it.

        Args:
            threads: for the model files; 0 for all processors.

        Raises:
            InvalidData: `repository` holds no model. The function raises what
                `nuclei.inference.pipeline.segment` does.
        """
        if self.local:
            from nuclei.inference import pipeline
            from nuclei.inference.onnx_engine import LocalEngine

            engine = LocalEngine(self.repository, threads)

            def segment(frame: "Frame") -> "Segmentation":
                served = engine.find(self.model, self.version)
                return asyncio.run(
                    pipeline.segment(
                        frame, engine, served, tta=self.tta, adjustments=self.adjustments
                    )
                )

            yield segment
        else:
            with self.gateway.client() as client:
                yield lambda frame: self._ask(client, frame)

    def _ask(self, client: "Client", frame: "Frame") -> "Segmentation":
        try:
            return client.segment(
                frame,
                model=self.model,
                version=self.version,
                tta=self.tta,
                timeout_s=GATEWAY_TIMEOUT_S,
                **asdict(self.adjustments),
            )
        except EngineUnavailable as error:
            raise EngineUnavailable(f"{error}; or do without a gateway: --local") from error

"""`nuclei promote`: make a registered model version the one that answers."""

from typing import TYPE_CHECKING, Annotated

import typer

from nuclei.cli.registry import NameArgument, TrackingUriOption, WaitOption, WhyOption
from nuclei.console import messages, output, print_warning
from nuclei.errors import InvalidOption
from nuclei.quoting import quoted
from nuclei.registry import default_tracking_uri

if TYPE_CHECKING:
    from serving.promotion.state import Phase

DEFAULT_FRAMES = 500

EPILOG = """
**Examples**

nuclei promote unet 5 --wait --why "better on histology"

nuclei promote unet 5 --shadow 10% --for 500frames       (its answers are only compared)

nuclei promote unet 5 --shadow 10% --canary 5% --wait    (compared, then 5 % of the callers get it)

Before: nuclei gate 5.  If it is worse after all: nuclei rollback unet
"""


def promote(
    name: NameArgument,
    version: Annotated[int, typer.Argument(min=1, help="Version of the model.")],
    shadow: Annotated[
        str | None,
        typer.Option(
            help="Part of the frames that it segments as well, unseen by callers, before it "
            "answers: 10%.",
            show_default=False,
        ),
    ] = None,
    canary: Annotated[
        str | None,
        typer.Option(
            help="Part of the callers that it answers before it answers all: 5%.",
            show_default=False,
        ),
    ] = None,
    frames: Annotated[
        str | None,
        typer.Option(
            "--for",
            help=f"Frames that it segments in each of these two phases [{DEFAULT_FRAMES}frames].",
            show_default=False,
        ),
    ] = None,
    wait: WaitOption = False,
    why: WhyOption = "",
    tracking_uri: TrackingUriOption = None,
) -> None:
    """Let a model version answer: at once, or after it showed itself beside the present one.

    Only a version that passed its gates with exactly the files it has is promoted, and only one at
    a time. Made again, it changes nothing. Sync processes do what the registry says: they load the
    version, prove it, switch, and end a rollout whose version is worse. Exit code 11: the version
    is refused or was aborted; 12: somebody else changes the model.
    """
    from serving.promotion import changes
    from serving.promotion.state import NO_VERSION, read_state
    from serving.registry import Registry

    phases = _phases(shadow, canary, frames)
    registry = Registry(tracking_uri or default_tracking_uri())
    changed = changes.promote(registry, name, version, phases, why)
    begun = "its rollout has begun" if phases else "it is the champion"
    output().print(
        f"{name} {version}: {begun}" + ("" if changed else ", as before"), soft_wrap=True
    )
    gates = read_state(registry, name).find(version).gates
    if changed and gates is not None and gates.against == NO_VERSION:
        print_warning(
            "its gates compared it with no version: whether it is better, only callers will tell"
        )
    if wait:
        from serving.promotion.waiting import follow

        for sentence in follow(registry, name, version):
            messages().print(sentence, soft_wrap=True)
        output().print(f"{name} {version} answers", soft_wrap=True)


def _phases(shadow: str | None, canary: str | None, frames: str | None) -> "list[Phase]":
    from serving.promotion.state import Phase

    given = [("shadow", shadow), ("canary", canary)]
    if frames is not None and shadow is None and canary is None:
        raise InvalidOption("--for is the length of --shadow and --canary; give one of them")
    n_frames = DEFAULT_FRAMES if frames is None else _frames(frames)
    return [
        Phase.model_validate({"mode": mode, "fraction": _fraction(mode, part), "frames": n_frames})
        for mode, part in given
        if part is not None
    ]


def _fraction(option: str, text: str) -> float:
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise InvalidOption(
            f"--{option} is {quoted(text)}; expected a part of the traffic, such as 10% or 0.1"
        )
    return value


def _frames(text: str) -> int:
    number = text.removesuffix("frames").removesuffix("frame").strip()
    if number.isascii() and number.isdecimal() and 1 <= int(number[:12]) <= 10**9:
        return int(number)
    raise InvalidOption(
        f"--for is {quoted(text)}; expected a number of frames, 1 to 10^9, such as 500frames"
    )

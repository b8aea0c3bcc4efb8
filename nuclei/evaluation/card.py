"""The card of a model: what it learned from, how good it is and where not, and its licence.

After M. Mitchell et al., "Model Cards for Model Reporting", FAT* 2019 (sections 4.1 to 4.9), of
which it has what a model's contract tells.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from nuclei.inference.contract import Contract
from nuclei.inference.provenance import DataSet
from nuclei.quoting import printable

LEFT_OUT = "left_out/"
TTA = "tta/"
SCORE = "dsb_score"
# Of `training.left_out`, and their headings.
LEFT_OUT_FIGURES = {SCORE: "DSB score", "f1_0.50": "F1 at IoU .5", "boundary_f1": "boundary F1"}
# Below this share of the best source's score, a source is one that the model is weak on.
WEAK = 0.75
UNKNOWN = "not stated"


def card(name: str, version: str, contract: Contract) -> str:
    """The card of a model version, as Markdown.

    Args:
        name, version: of the model, as people call it.
        contract: of the version.
    """
    return "".join(f"{printable(line)}\n" for line in _lines(name, version, contract))


def _lines(name: str, version: str, contract: Contract) -> Iterator[str]:
    scores = contract.validation
    yield f"# {name} version {version}"
    yield ""
    yield (
        "Outlines each nucleus in an image of a microscope: grey or colour, 8 or 16 bit. "
        f"Method: {contract.method.name}"
        + (f", of the maps {', '.join(contract.maps)}." if contract.maps else ".")
    )
    yield ""
    yield f"- Licence: {contract.licence or UNKNOWN}"
    if contract.training:
        effort = {key: f"{value:,.0f}" for key, value in contract.training.items()}
        cost = f"{effort.get('parameters', UNKNOWN)} parameters"
        yield f"- Network: {cost}, trained for {effort.get('minutes', UNKNOWN)} minutes"
    yield f"- Pixel size of the images: {_pixel_size(contract.pixel_size_um)}"
    for group, diameter in sorted(contract.diameters_px.items()):
        yield f"- Diameter of most nuclei, {group} images: {diameter:.0f} px"
    yield from _data(contract.data)
    yield from _left_out(scores)
    yield from _held_out(scores, len(contract.held_out))
    yield from _limits(scores)


def _pixel_size(pixel_size_um: float | None) -> str:
    return "mixed, or not known" if pixel_size_um is None else f"{pixel_size_um:g} µm"


def _data(data: Sequence[DataSet]) -> Iterator[str]:
    yield from _heading("Data")
    if not data:
        yield "What it learned from is not stated."
        return
    rows = (
        (one.name, modality, str(count), str(one.nuclei.get(modality, 0)), one.licence)
        for one in data
        for modality, count in one.images.items()
    )
    yield from _table(("data set", "modality", "images", "nuclei", "licence"), rows)
    yield ""
    yield "A part of the images of each was held out. Cite, where you use the model:"
    yield ""
    for one in data:
        yield f"- {one.name}: {one.citation or 'its authors are not known here'}"


def _left_out(scores: Mapping[str, float]) -> Iterator[str]:
    sources = _names(scores, f"{LEFT_OUT}{SCORE}/")
    if not sources:
        return
    yield from _heading("Scores on laboratories that it has not learned from")
    yield (
        "Each source was scored by a network that had not learned from it (the same training "
        "without it, in at most as many steps), with post-processing that was tuned on others. "
        "Expect this on your images, unless they are like those of a source. Means over images; "
        "boundaries are compared within 2 px."
    )
    yield ""
    places = {"all": "", **{source: f"/{source}" for source in sources}}
    rows = (
        (shown, *(f"{scores[f'{LEFT_OUT}{figure}{place}']:.3f}" for figure in LEFT_OUT_FIGURES))
        for shown, place in places.items()
    )
    yield from _table(("source that was left out", *LEFT_OUT_FIGURES.values()), rows)


def _held_out(scores: Mapping[str, float], n_images: int) -> Iterator[str]:
    yield from _heading("Scores on more images of the laboratories that it learned from")
    if SCORE not in scores:
        yield "They are not stated."
        return
    yield f"{n_images} images were held out; without and with test-time augmentation (TTA)."
    yield ""
    places = {"all": SCORE, **{one: f"{SCORE}/{one}" for one in _names(scores, f"{SCORE}/")}}
    rows = (
        (shown, _shown(scores, place), _shown(scores, f"{TTA}{place}"))
        for shown, place in places.items()
    )
    yield from _table(("modality", "DSB score", "with TTA"), rows)


def _limits(scores: Mapping[str, float]) -> Iterator[str]:
    """Where it fails, as far as scores tell."""
    yield from _heading("Where it fails")
    places = f"{LEFT_OUT}{SCORE}/", f"{SCORE}/"
    prefix = next((one for one in places if _names(scores, one)), None)
    if prefix is not None:
        by_name = {one: scores[f"{prefix}{one}"] for one in _names(scores, prefix)}
        best = max(by_name.values())
        weak = sorted((score, one) for one, score in by_name.items() if score < WEAK * best)
        for score, one in weak:
            yield (
                f"- On {one}, with a DSB score of {score:.2f} where its best is {best:.2f}: look "
                "at the outlines before you count on such images."
            )
    yield (
        "- On images unlike all of the above, and on nuclei far from the diameters above (give "
        "--diameter): an answer is given all the same. Its warnings say when a frame is unlike "
        "those that the model was calibrated with."
    )
    yield "- It has been made for research, not for diagnosis."


def _shown(scores: Mapping[str, float], name: str) -> str:
    return f"{scores[name]:.3f}" if name in scores else UNKNOWN


def _names(scores: Mapping[str, float], prefix: str) -> list[str]:
    return sorted(name.removeprefix(prefix) for name in scores if name.startswith(prefix))


def _heading(text: str) -> tuple[str, ...]:
    return "", f"## {text}", ""


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield _row(headings)
    yield f"|{'---|' * len(headings)}"
    yield from map(_row, rows)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"

import base64
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from nuclei.evaluation.coco import Candidates
from nuclei.evaluation.comparison import Comparison, Entry
from nuclei.evaluation.report import report
from nuclei.evaluation.scores import Evaluation, ImageScores
from nuclei.imaging.images import Frame

MODALITIES = ("fluorescence", "fluorescence", "histology")
VOID = ("meta", "img", "link")


def truth(number: int) -> NDArray[np.uint16]:
    labels = np.zeros((96, 120), np.uint16)
    for label, centre in enumerate([(20, 20), (60, 25), (40, 70)], start=1):
        cv2.circle(labels, centre, 8 + number, label, -1)
    return labels


TRUTHS = [truth(number) for number in range(3)]
FRAMES = [Frame(np.where(labels > 0, 200, 20).astype(np.uint8)[:, :, None]) for labels in TRUTHS]
# The second model finds nothing in the last image.
ANSWERS = [TRUTHS, [TRUTHS[0], TRUTHS[1], np.zeros_like(TRUTHS[2])]]


def entry(name: str, answers: list[NDArray[np.uint16]], scored: bool) -> Entry:
    images = []
    for number, (modality, labels, answer) in enumerate(
        zip(MODALITIES, TRUTHS, answers, strict=True)
    ):
        scores = np.ones(int(answer.max()), np.float32)
        candidates = Candidates(answer, scores) if scored else None
        images.append(ImageScores.of(f"image {number}", modality, labels, answer, candidates))
    return Entry(name, Evaluation(tuple(images)))


class Page(HTMLParser):
    """The texts and addresses of a page; checks that every tag is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.addresses: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


@pytest.fixture(scope="module")
def page() -> Page:
    comparison = Comparison((entry("right", ANSWERS[0], True), entry("<b>", ANSWERS[1], False)))
    return Page(report("Two models & a page", comparison, FRAMES, TRUTHS, ANSWERS))


def test_the_page_needs_nothing_besides_itself(page: Page) -> None:
    assert page.addresses
    assert all(address.startswith("data:image/") for address in page.addresses)


def test_names_are_shown_as_they_are(page: Page) -> None:
    assert "Two models & a page" in page.texts
    assert "<b>" in page.texts


def test_the_page_begins_with_the_main_results(page: Page) -> None:
    text = " ".join(page.texts)
    assert "3 images (2 fluorescence, 1 histology) with 9 nuclei" in text
    assert "right reaches a DSB score of 1.000" in text
    assert re.search(r"It is not significantly better than <b> on these images: by 0\.333", text)


def test_the_page_holds_tables_charts_and_images(page: Page) -> None:
    charts = [a for a in page.addresses if a.startswith("data:image/svg+xml")]
    assert len(charts) == 6
    for heading in ("Scores", "Errors", "COCO scores of masks", "Where they differ most"):
        assert heading in page.texts
    assert "<b>: DSB 0.000, 3 missed" in page.texts


def test_pictures_can_be_decoded(page: Page) -> None:
    jpegs = [a for a in page.addresses if a.startswith("data:image/jpeg")]
    assert len(jpegs) % 4 == 0  # image, truth and two models
    data = base64.b64decode(jpegs[0].partition(",")[2])
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (96 * 5, 120 * 5, 3)


def test_one_model_has_a_page_too() -> None:
    comparison = Comparison((entry("right", ANSWERS[0], False),))
    page = Page(report("One", comparison, FRAMES, TRUTHS, ANSWERS[:1]))
    assert "Where they differ most" not in page.texts

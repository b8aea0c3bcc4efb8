"""The page that segments a picture, in a real browser with a real gateway."""

import base64
import csv
import io
import json
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from playwright.sync_api import Page, expect

from nuclei.client import Client
from nuclei.inference.contract import CONTRACT_FILE, Contract
from nuclei.inference.routing import Routing
from nuclei.results.segmentation import Segmentation
from serving.repository.export import export_version, set_routing
from tests.conftest import triton_server
from tests.serving.gateway.web.conftest import violations

OpenPage = Callable[..., AbstractContextManager[Page]]

TOKEN = "a-token-of-thirty-two-characters"
DESK = {"viewport": {"width": 1440, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
WAIT_MS = 30_000


def segment(page: Page, file: Path, count: int) -> None:
    """Choose a file, and wait until its nuclei are shown."""
    page.set_input_files("#file", file)
    expect(page.locator("#count strong")).to_have_text(str(count), timeout=WAIT_MS)
    expect(page.locator("#busy")).to_be_hidden(timeout=WAIT_MS)


@pytest.fixture(scope="module")
def found(client: Client, fluorescence: Path) -> Segmentation:
    return client.segment(fluorescence)


def place_of(page: Page, result: Segmentation, row: int) -> tuple[float, float]:
    """Where a nucleus is on the screen while the whole picture is shown."""
    box = page.locator("#pane-a .view").bounding_box()
    height, width = result.labels.shape
    scale = min(box["width"] / width, box["height"] / height)
    y, x = (result.nuclei.centroid_px[row] + 0.5).tolist()
    left = box["x"] + (box["width"] - width * scale) / 2
    top = box["y"] + (box["height"] - height * scale) / 2
    return left + x * scale, top + y * scale


def saved(page: Page, format_name: str) -> bytes:
    page.select_option("#format", format_name)
    with page.expect_download(timeout=WAIT_MS) as download:
        page.click("#save")
    return Path(download.value.path()).read_bytes()


def test_nuclei_are_shown_discarded_and_left_out_of_every_file(
    open_page: OpenPage, fluorescence: Path, found: Segmentation
) -> None:
    count = len(found.nuclei)
    with open_page(**DESK) as page:
        segment(page, fluorescence, count)
        row = int(np.argmax(found.nuclei.area_px))
        x, y = place_of(page, found, row)
        page.mouse.move(x, y)
        expect(page.locator("#card")).to_contain_text(f"Nucleus {found.nuclei.label[row]}")
        expect(page.locator("#card")).to_contain_text("Area px²")
        page.mouse.click(x, y)
        expect(page.locator("#count")).to_have_text(f"{count - 1} nuclei, 1 discarded")

        # The next one by the keyboard alone.
        page.locator("#rows tbody tr[aria-selected=true]").focus()
        page.keyboard.press("ArrowDown")
        other = int(page.locator("#rows tbody tr[aria-selected=true] td").first.inner_text())
        page.keyboard.press("Delete")
        expect(page.locator("#count")).to_have_text(f"{count - 2} nuclei, 2 discarded")

        out = {int(found.nuclei.label[row]), other}
        kept = set(found.nuclei.label.tolist()) - out
        table = csv.DictReader(io.StringIO(saved(page, "csv").decode()))
        assert {int(line["label"]) for line in table} == kept
        labels = tifffile.imread(io.BytesIO(saved(page, "labels.tif")))
        left = np.isin(found.labels, list(out))
        np.testing.assert_array_equal(labels, np.where(left, 0, found.labels))
        features = json.loads(saved(page, "geojson"))["features"]
        assert len(features) == count - 2

        page.click("#keep-all")
        expect(page.locator("#count")).to_have_text(f"{count} nuclei")


def test_a_range_of_a_feature_highlights_nuclei_and_discards_them(
    open_page: OpenPage, fluorescence: Path, found: Segmentation
) -> None:
    count = len(found.nuclei)
    with open_page(**DESK) as page:
        segment(page, fluorescence, count)
        page.select_option("#feature", "Area px^2")
        limit = int(np.median(found.nuclei.area_px))
        small = int(np.count_nonzero(found.nuclei.area_px <= limit))
        page.fill("#to", str(limit))
        page.press("#to", "Enter")
        expect(page.locator("#brushed")).to_have_text(f"{small} of {count} nuclei are highlighted.")
        page.click("#clear")
        box = page.locator("#histogram svg").bounding_box()
        page.mouse.move(box["x"] - 2, box["y"] + 30)
        page.mouse.move(box["x"] + 1, box["y"] + 30)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] - 1, box["y"] + 30, steps=3)
        page.mouse.up()
        expect(page.locator("#brushed")).to_contain_text("are highlighted")
        page.fill("#from", "")
        page.fill("#to", str(limit))
        page.press("#to", "Enter")
        page.click("#discard-brushed")
        expect(page.locator("#count")).to_have_text(f"{count - small} nuclei, {small} discarded")


def matched(first: Segmentation, second: Segmentation) -> int:
    """How many nuclei of two results share more than half of their area."""
    pairs = np.stack([first.labels.ravel(), second.labels.ravel()])
    pairs, overlap = np.unique(pairs[:, pairs.all(axis=0)], axis=1, return_counts=True)
    areas = first.nuclei.area_px[pairs[0] - 1] + second.nuclei.area_px[pairs[1] - 1]
    return int(np.count_nonzero(overlap / (areas - overlap) > 0.5))


def expect_difference(page: Page, first: Segmentation, second: Segmentation) -> None:
    same = matched(first, second)
    cells = page.locator("#difference td")
    expect(cells).to_have_count(3, timeout=WAIT_MS)
    numbers = [int(text) for text in cells.all_inner_texts()]
    assert numbers == [same, len(first.nuclei) - same, len(second.nuclei) - same]


def test_a_result_is_compared_with_that_of_more_views(
    open_page: OpenPage, fluorescence: Path, found: Segmentation, client: Client
) -> None:
    with open_page(**DESK) as page:
        segment(page, fluorescence, len(found.nuclei))
        page.select_option("#compare", index=1)
        expect_difference(page, found, client.segment(fluorescence, tta=True))
        expect(page.locator("#pane-b .view canvas").first).to_be_visible()
        expect(page.locator("#busy")).to_be_hidden()
        # All of the picture is seen in half of the place, and in all of it again.
        row = int(np.argmin(found.nuclei.centroid_px[:, 1]))
        for options in ("two", "one"):
            if options == "one":
                page.select_option("#compare", "")
                expect(page.locator("#pane-b")).to_be_hidden()
            page.mouse.move(0, 0)
            page.wait_for_timeout(300)  # two frames of the browser
            page.mouse.move(*place_of(page, found, row))
            expect(page.locator("#card")).to_contain_text(f"Nucleus {found.nuclei.label[row]}")


@pytest.fixture
def lab(
    own_repository: Path,
    shipped_artifacts: Path,
    run_gateway: Callable[..., AbstractContextManager[Any]],
    tmp_path: Path,
) -> Iterator[Any]:
    """A gateway of two models: that of a laboratory, which looks for large nuclei, is beside."""
    own = shutil.copytree(shipped_artifacts, tmp_path / "mylab")
    contract = Contract.read(own / CONTRACT_FILE)
    large = replace(contract.postprocessing, min_area_px=400)
    named = replace(contract, family="mylab", postprocessing=large)
    (own / CONTRACT_FILE).write_text(named.to_json())
    export_version(own, own_repository, 1)
    set_routing(own_repository, "mylab", Routing(1))
    with (
        triton_server(own_repository, tmp_path / "triton") as triton,
        run_gateway(tmp_path, triton.address) as gateway,
    ):
        gateway.wait_ready()
        yield gateway


def test_two_models_are_switched_and_compared(
    open_page: OpenPage, lab: Any, fluorescence: Path, found: Segmentation
) -> None:
    with Client(lab.grpc_address) as client:
        own = client.segment(fluorescence, model="mylab")
    assert len(own.nuclei) < len(found.nuclei)
    with open_page(url=lab.url, **DESK) as page:
        segment(page, fluorescence, len(found.nuclei))
        page.select_option("#compare", label="mylab, version 1")
        expect_difference(page, found, own)
        expect(page.locator("#busy")).to_be_hidden()
        page.select_option("#compare", "")
        page.select_option("#model", label="mylab, version 1")
        expect(page.locator("#count strong")).to_have_text(str(len(own.nuclei)), timeout=WAIT_MS)
        labels = tifffile.imread(io.BytesIO(saved(page, "labels.tif")))
        np.testing.assert_array_equal(labels, own.labels)


def test_what_is_discarded_belongs_to_one_result_alone(
    open_page: OpenPage, fluorescence: Path, found: Segmentation, client: Client
) -> None:
    count = len(found.nuclei)
    other = len(client.segment(fluorescence, threshold=0.2, tta=True).nuclei)
    with open_page(**DESK) as page:
        segment(page, fluorescence, count)
        page.locator("#rows tbody tr").first.focus()
        page.keyboard.press("Delete")
        expect(page.locator("#count")).to_have_text(f"{count - 1} nuclei, 1 discarded")
        page.fill("#knob-threshold", "0.2")
        page.check("#tta")
        expect(page.locator("#save")).to_be_disabled()
        page.select_option("#feature", "Eccentricity")  # while the answer is on its way
        expect(page.locator("#busy")).to_be_hidden(timeout=WAIT_MS)
        expect(page.locator("#count")).to_have_text(f"{other} nuclei")

        page.fill("#knob-threshold", "2")
        page.press("#knob-threshold", "Enter")
        expect(page.locator("#problem")).to_contain_text("expected a probability above 0")
        expect(page.locator("#result")).to_be_hidden()
        expect(page.locator("#save")).to_be_disabled()
        page.uncheck("#tta")
        page.fill("#knob-threshold", "")
        page.press("#knob-threshold", "Enter")
        expect(page.locator("#count")).to_have_text(f"{count} nuclei", timeout=WAIT_MS)
        assert len(json.loads(saved(page, "geojson"))["features"]) == count


def test_brightness_is_of_the_picture_alone(
    open_page: OpenPage, fluorescence_16bit: Path, client: Client
) -> None:
    count = len(client.segment(fluorescence_16bit).nuclei)
    with open_page(**DESK) as page:
        segment(page, fluorescence_16bit, count)
        page.uncheck("#outlines")
        auto = page.inner_text("#white-said")

        def brightness() -> float:
            page.wait_for_timeout(500)
            shown = np.frombuffer(page.locator("#pane-a .view").screenshot(), np.uint8)
            return float(cv2.imdecode(shown, cv2.IMREAD_GRAYSCALE).mean())

        before = brightness()
        page.locator("#white").focus()
        page.keyboard.press("End")
        expect(page.locator("#white-said")).not_to_have_text(auto)
        assert brightness() < before / 2
        expect(page.locator("#count strong")).to_have_text(str(count))
        page.click("#auto")
        expect(page.locator("#white-said")).to_have_text(auto)
        assert brightness() == pytest.approx(before, rel=0.05)


def test_a_picture_of_the_longest_side_is_shown_to_its_end(
    open_page: OpenPage, fluorescence: Path, client: Client, tmp_path: Path
) -> None:
    cells = np.asarray(cv2.imread(str(fluorescence), cv2.IMREAD_GRAYSCALE), np.uint8)
    height, width = cells.shape
    slide = np.full((height, 16384), int(np.median(cells)), np.uint8)
    slide[:, -width:] = cells
    file = tmp_path / "slide.tif"
    tifffile.imwrite(file, slide)
    nuclei = client.segment(file).nuclei
    last = int(np.argmax(nuclei.centroid_px[:, 1]))
    assert nuclei.centroid_px[last, 1] > 16300
    with open_page(**DESK) as page:
        segment(page, file, len(nuclei))
        row = page.locator("#rows tbody tr").nth(last)
        row.focus()
        row.press("Enter")
        page.wait_for_timeout(1000)  # the view moves there
        box = page.locator("#pane-a .view").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        expect(page.locator("#card")).to_contain_text(f"Nucleus {nuclei.label[last]}")
        page.uncheck("#outlines")
        page.wait_for_timeout(500)
        shot = np.frombuffer(page.locator("#pane-a .view").screenshot(), np.uint8)
        shown = np.asarray(cv2.imdecode(shot, cv2.IMREAD_GRAYSCALE), np.uint8)
        middle = shown[shown.shape[0] // 2, shown.shape[1] // 2]
        assert middle > np.median(shown) + 30


def drop(page: Page, path: Path) -> None:
    """Let a file fall on the page, as from the windows of the desktop."""
    devtools = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        event = {"type": kind, "x": 500, "y": 400, "data": data}
        devtools.send("Input.dispatchDragEvent", event)


PASTE = """encoded => {
    const bytes = Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0));
    const clipboardData = new DataTransfer();
    clipboardData.items.add(new File([bytes], "image.png", { type: "image/png" }));
    dispatchEvent(new ClipboardEvent("paste", { clipboardData }));
}"""


def test_pictures_are_dropped_and_pasted(
    open_page: OpenPage, fluorescence: Path, found: Segmentation, tmp_path: Path
) -> None:
    count = str(len(found.nuclei))
    with open_page(**DESK) as page:
        drop(page, tmp_path)
        expect(page.locator("#problem")).to_contain_text("it is a folder", timeout=WAIT_MS)
        drop(page, fluorescence)
        expect(page.locator("#name")).to_have_text(fluorescence.name)
        expect(page.locator("#count strong")).to_have_text(count, timeout=WAIT_MS)
        page.evaluate(PASTE, base64.b64encode(fluorescence.read_bytes()).decode())
        expect(page.locator("#name")).to_have_text("image.png")
        expect(page.locator("#count strong")).to_have_text(count, timeout=WAIT_MS)


def test_the_channel_of_the_nuclei_is_found_and_can_be_changed(
    open_page: OpenPage, fluorescence_16bit: Path, client: Client, tmp_path: Path
) -> None:
    nuclei = tifffile.imread(fluorescence_16bit)
    file = tmp_path / "two.ome.tif"
    tifffile.imwrite(
        file,
        np.stack([nuclei // 8, nuclei]),
        ome=True,
        photometric="minisblack",
        metadata={
            "axes": "CYX",
            "Channel": {"Name": ["GFP", "Hoechst"]},
            "PhysicalSizeX": 0.65,
            "PhysicalSizeY": 0.65,
        },
    )
    count = len(client.segment(file, channel="Hoechst").nuclei)
    with open_page(**DESK) as page:
        segment(page, file, count)
        assert page.input_value("#channel") == "Hoechst"
        expect(page.locator("#about")).to_contain_text("0.65 µm")
        expect(page.locator("#warnings")).to_contain_text("Channel 1 'Hoechst' of 2")
        page.select_option("#channel", "GFP")
        expect(page.locator("#warnings")).to_contain_text("Channel 0 'GFP' of 2", timeout=WAIT_MS)


def test_several_files_are_listed_switched_and_downloaded_together(
    open_page: OpenPage, client: Client, fluorescence: Path, found: Segmentation, tmp_path: Path
) -> None:
    image = cv2.imread(str(fluorescence), cv2.IMREAD_UNCHANGED)[:160, :160]
    small, formula = tmp_path / "small.png", tmp_path / "=small, too.png"
    for file in (small, formula):
        cv2.imwrite(str(file), image)
    (tmp_path / "notes.txt").write_text("a text, not an image")
    count, few = len(found.nuclei), len(client.segment(small).nuclei)
    with open_page(**DESK) as page:
        files = [fluorescence, tmp_path / "notes.txt", small, formula]
        page.set_input_files("#file", files)
        expect(page.locator("#count strong")).to_have_text(str(count), timeout=WAIT_MS)
        frames = page.locator("#frame-list li")
        expect(frames).to_have_count(4)
        expect(page.locator("#frames-said")).to_contain_text("3 of 4 done", timeout=WAIT_MS)
        expect(page.locator("#frames-said")).to_contain_text("1 failed")
        expect(frames.nth(1)).to_contain_text("not an image")
        assert not violations(page)

        label = int(page.locator("#rows tbody tr td").first.inner_text())
        page.locator("#rows tbody tr").first.focus()
        page.keyboard.press("Delete")
        expect(frames.nth(0)).to_contain_text(f"{count - 1} nuclei, 1 discarded")
        frames.nth(0).focus()
        page.keyboard.press("End")
        expect(page.locator("#name")).to_have_text("=small, too.png")
        expect(page.locator("#count strong")).to_have_text(str(few), timeout=WAIT_MS)
        page.keyboard.press("ArrowUp")
        page.keyboard.press("ArrowUp")
        expect(page.locator("#problem")).to_contain_text("Not an image this service reads")
        page.keyboard.press("Home")
        expect(page.locator("#count")).to_have_text(f"{count - 1} nuclei, 1 discarded")

        with page.expect_download(timeout=WAIT_MS) as download:
            page.click("#save-all")
        with zipfile.ZipFile(download.value.path()) as packed:
            assert packed.testzip() is None
            assert sorted(packed.namelist()) == ["frames.csv", "nuclei.csv"]
            nuclei = list(csv.DictReader(io.StringIO(packed.read("nuclei.csv").decode())))
            listed = list(csv.DictReader(io.StringIO(packed.read("frames.csv").decode())))
        of_frames = Counter(row["frame"] for row in nuclei)
        assert of_frames == {
            fluorescence.name: count - 1,
            "small.png": few,
            "'=small, too.png": few,
        }
        assert str(label) not in {r["label"] for r in nuclei if r["frame"] == fluorescence.name}
        assert [row["count"] for row in listed] == [str(count - 1), "", str(few), str(few)]
        assert "not an image" in listed[1]["error"]

        page.select_option("#format", "labels.png")
        with page.expect_download(timeout=WAIT_MS) as download:
            page.click("#save-all")
        with zipfile.ZipFile(download.value.path()) as packed:
            assert len(packed.namelist()) == 4
            labels = cv2.imdecode(
                np.frombuffer(packed.read("small_labels.png"), np.uint8), cv2.IMREAD_UNCHANGED
            )
        assert len(np.unique(labels)) == few + 1


def test_a_file_that_is_no_picture_is_refused_in_words(open_page: OpenPage, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("a text, not an image")
    with open_page(**DESK) as page:
        page.set_input_files("#file", tmp_path / "notes.txt")
        expect(page.locator("#problem")).to_contain_text("Not an image this service reads")
        expect(page.locator("#open")).to_be_visible()


def test_the_token_is_asked_for_and_kept_for_the_tab(
    open_page: OpenPage,
    run_gateway: Callable[..., AbstractContextManager[Any]],
    triton: Any,
    tmp_path: Path,
    fluorescence: Path,
    found: Segmentation,
) -> None:
    with run_gateway(tmp_path, triton.address, NUCLEI_TOKEN=TOKEN) as guarded:
        guarded.wait_ready()
        with open_page(url=guarded.url, **DESK) as page:
            expect(page.locator("#token")).to_be_visible()
            page.fill("#token-text", "wrong")
            page.press("#token-text", "Enter")
            expect(page.locator("#token-wrong")).to_be_visible()
            assert not violations(page)
            page.fill("#token-text", TOKEN)
            page.press("#token-text", "Enter")
            expect(page.locator("#model option")).not_to_have_count(0)
            page.reload()
            segment(page, fluorescence, len(found.nuclei))
            expect(page.locator("#token")).to_be_hidden()


@pytest.mark.parametrize(
    ("device", "scheme"), [(DESK, "light"), (PHONE, "dark")], ids=["desk", "phone"]
)
def test_the_page_is_accessible(
    open_page: OpenPage, histology: Path, client: Client, device: dict[str, Any], scheme: str
) -> None:
    with open_page(color_scheme=scheme, **device) as page:
        if device == DESK:
            assert not violations(page)
        segment(page, histology, len(client.segment(histology).nuclei))
        assert not violations(page)
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0

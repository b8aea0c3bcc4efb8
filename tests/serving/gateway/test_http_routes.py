"""HTTP over a real gateway and a real Triton."""

import csv
import gzip
import io
import json
import socket
import time
import zipfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
import tifffile
from pyarrow import parquet

from nuclei.client import Client
from nuclei.formats import FORMATS
from nuclei.formats.pieces import PIECE_BYTES
from nuclei.results.quality import Quality
from nuclei.version import installed_version

LIMIT = 8 * 2**20
STAGES = ["wait", "decode", "tile", "infer", "postprocess", "measure", "quality", "encode"]


@pytest.fixture(scope="module")
def http(gateway: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=60) as connected:
        yield connected


def problem(response: httpx.Response) -> tuple[int, str, str]:
    """(status, name of the error, what it says) of an RFC 9457 answer."""
    assert response.headers["content-type"] == "application/problem+json"
    said = response.json()
    assert said["status"] == response.status_code
    assert "Traceback" not in said["detail"]
    return response.status_code, said["title"], said["detail"]


def test_json_is_the_default_and_equals_grpc(
    http: httpx.Client, client: Client, fluorescence: Path
) -> None:
    response = http.post(
        "/v1/segment", content=fluorescence.read_bytes(), headers={"X-Request-ID": "frame-1"}
    )
    assert response.status_code == 200
    assert response.headers["x-request-id"] == "frame-1"
    said = response.json()
    over_grpc = client.segment(fluorescence)
    assert said["count"] == len(over_grpc.nuclei) == len(said["nuclei"]) > 10
    assert said["version"] == over_grpc.version == response.headers["x-model-version"]
    assert [nucleus["area_px"] for nucleus in said["nuclei"]] == over_grpc.nuclei.area_px.tolist()


@pytest.mark.parametrize("tta", [False, True])
def test_quality_is_the_same_on_every_way_out(
    http: httpx.Client, client: Client, fluorescence: Path, tta: bool
) -> None:
    options = {"tta": "true" if tta else "false"}
    pixels = cv2.imread(str(fluorescence), cv2.IMREAD_GRAYSCALE)
    body = cv2.imencode(".png", pixels[60:188, 60:188])[1].tobytes()
    report = http.post("/v1/segment", params=options, content=body)
    said = report.json()["quality"]
    assert json.loads(report.headers["x-nuclei-quality"]) == said
    for name in ("geojson", "csv"):
        other = http.post("/v1/segment", params={"format": name, **options}, content=body)
        assert json.loads(other.headers["x-nuclei-quality"]) == said
    quality = Quality(**said)
    over_grpc = client.segment(body, tta=tta)
    assert over_grpc.quality == quality
    (streamed,) = client.stream([body], tta=tta)
    assert streamed.segmentation is not None
    assert streamed.segmentation.quality == quality
    assert quality.coverage == pytest.approx((over_grpc.labels > 0).mean())
    assert quality.focus is not None
    assert (quality.tta_disagreement is not None) == tta


def test_multipart_equals_the_raw_body(http: httpx.Client, histology: Path) -> None:
    raw = http.post("/v1/segment", content=histology.read_bytes())
    with histology.open("rb") as file:
        form = http.post("/v1/segment", files={"file": file})
    assert form.status_code == 200
    assert form.json()["nuclei"] == raw.json()["nuclei"]


def test_every_format_describes_the_same_nuclei(
    http: httpx.Client, fluorescence: Path, version: str
) -> None:
    def fetch(name: str, media_type: str) -> bytes:
        body = fluorescence.read_bytes()
        response = http.post("/v1/segment", params={"format": name}, content=body)
        assert response.status_code == 200
        assert response.headers["content-type"].startswith(media_type)
        assert response.headers["x-model"] == "unet"
        assert response.headers["x-model-version"] == version
        timing = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
        assert list(timing) == STAGES
        assert float(timing["infer"]) > 0
        return response.content

    labels = tifffile.imread(io.BytesIO(fetch("labels.tif", "image/tiff")))
    png = cv2.imdecode(
        np.frombuffer(fetch("labels.png", "image/png"), np.uint8), cv2.IMREAD_UNCHANGED
    )
    features = json.loads(fetch("geojson", "application/geo+json"))["features"]
    rows = list(csv.DictReader(io.StringIO(fetch("csv", "text/csv").decode())))
    ome = tifffile.imread(io.BytesIO(fetch("labels.ome.tif", "image/tiff")))
    with zipfile.ZipFile(io.BytesIO(fetch("rois.zip", "application/zip"))) as rois:
        named = {int(name.removesuffix(".roi").partition("-")[0]) for name in rois.namelist()}
    with zipfile.ZipFile(io.BytesIO(fetch("labels.ome.zarr", "application/zip"))) as zarr:
        level = json.loads(zarr.read("0/.zarray"))
    coco = json.loads(fetch("coco.json", "application/json"))
    table = parquet.read_table(io.BytesIO(fetch("parquet", "application/vnd.apache.parquet")))
    np.testing.assert_array_equal(labels, png)
    np.testing.assert_array_equal(labels, ome)
    assert level["shape"] == list(labels.shape)
    assert named == set(range(1, labels.max() + 1))
    assert [each["area"] for each in coco["annotations"]] == table["area_px"].to_pylist()
    assert table.column_names == list(rows[0])
    assert labels.max() == len(features) == len(rows) > 10
    assert [int(row["area_px"]) for row in rows] == np.bincount(labels.ravel())[1:].tolist()


@pytest.mark.parametrize("name", ["plate 7 well é.png", ""])
def test_coco_names_the_file_of_a_form(http: httpx.Client, fluorescence: Path, name: str) -> None:
    files = {"file": (name, fluorescence.read_bytes()) if name else fluorescence.read_bytes()}
    answer = http.post("/v1/segment", params={"format": "coco.json"}, files=files)
    (image,) = answer.json()["images"]
    assert image["file_name"] == (name or "upload")
    assert answer.json()["annotations"]


def test_tta_is_asked_for_by_query(http: httpx.Client, fluorescence: Path) -> None:
    body = fluorescence.read_bytes()
    one = http.post("/v1/segment", content=body).json()
    eight = http.post("/v1/segment", params={"tta": "true"}, content=body).json()
    assert eight["nuclei"] != one["nuclei"]
    assert abs(eight["count"] - one["count"]) < 0.3 * one["count"]


def test_bad_frame_is_named(http: httpx.Client, bad_frame: Any) -> None:
    status, title, said = problem(http.post("/v1/segment", content=bad_frame.encoded()))
    assert (status, title) == (bad_frame.error.http_status, bad_frame.error.__name__)
    assert bad_frame.says in said


BAD_QUERIES = {
    "tto=1": (400, "InvalidOption", "tto"),
    "format=bmp": (400, "InvalidOption", "bmp"),
    "tta=perhaps": (400, "InvalidOption", "perhaps"),
    "tta=1&tta=0": (400, "InvalidOption", "more than once"),
    "threshold=1.5": (400, "InvalidOption", "above 0 and below 1"),
    "min_area=12.5": (400, "InvalidOption", "whole number of pixels"),
    "diameter=0": (400, "InvalidOption", "from 2 to 4096"),
    "model=nosuch": (404, "ModelNotFound", "nosuch"),
    "model=merge": (404, "ModelNotFound", "merge"),
}


@pytest.mark.parametrize("query", BAD_QUERIES)
def test_bad_query_is_named(http: httpx.Client, fluorescence: Path, query: str) -> None:
    status, title, named = BAD_QUERIES[query]
    answer = problem(http.post(f"/v1/segment?{query}", content=fluorescence.read_bytes()))
    assert answer[:2] == (status, title)
    assert named in answer[2]


def test_request_id_with_spaces_is_refused(http: httpx.Client) -> None:
    response = http.post("/v1/segment", content=b"x", headers={"X-Request-ID": "a b"})
    assert problem(response)[:2] == (400, "InvalidOption")


BAD_FORMS: dict[str, dict[str, Any]] = {
    "other field": {"files": {"image": b"x"}},
    "two files": {"files": [("file", b"x"), ("file", b"y")]},
    "no boundary": {"content": b"x", "headers": {"content-type": "multipart/form-data"}},
    "no file": {"files": {"file": (None, "text")}},
}


@pytest.mark.parametrize("name", BAD_FORMS)
def test_bad_form_is_named(http: httpx.Client, name: str) -> None:
    status, title, said = problem(http.post("/v1/segment", **BAD_FORMS[name]))
    assert (status, title) == (422, "InvalidImage")
    assert "'file'" in said


def test_body_over_the_limit_is_refused_while_it_is_read(http: httpx.Client) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 100 * LIMIT:
            sent += 2**20
            yield bytes(2**20)

    try:
        response = http.post("/v1/segment", content=endless())
    except httpx.WriteError:
        pass  # the server hung up before the answer could be read
    else:
        assert problem(response)[:2] == (413, "FrameTooLarge")
    assert sent < 20 * LIMIT


def test_caller_that_hangs_up_is_no_failure_of_the_service(gateway: Any) -> None:
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as caller:
        caller.sendall(
            b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nX-Request-ID: hung-up\r\n"
            b"Content-Length: 1000\r\n\r\nonly a part"
        )
        time.sleep(0.2)
    deadline = time.monotonic() + 5
    while not (lines := [line for line in gateway.process.log.read_text().splitlines()
                         if "hung up" in line]):  # fmt: skip
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "INVALID_ARGUMENT" in lines[0]


def test_form_over_the_limit_is_refused(http: httpx.Client) -> None:
    response = http.post("/v1/segment", files={"file": bytes(LIMIT + 2 * 2**20)})
    assert problem(response)[:2] == (413, "FrameTooLarge")


def test_form_fields_are_taken_as_query_parameters_are(
    http: httpx.Client, fluorescence: Path
) -> None:
    sent = {"format": "csv", "pixel_size": "0.5", "intensity_range": "0,255"}
    files = {"file": ("a.png", fluorescence.read_bytes())}
    of_form = http.post("/v1/segment", data=sent, files=files)
    of_query = http.post("/v1/segment", params=sent, files=files)
    assert of_form.headers["content-type"].startswith("text/csv")
    assert "area_um2" in of_form.text.splitlines()[0]
    assert of_form.headers["x-nuclei-intensity-range"] == "0,255"
    assert of_form.text == of_query.text


def test_discarded_nuclei_are_in_no_format(http: httpx.Client, fluorescence: Path) -> None:
    files = {"file": ("a.png", fluorescence.read_bytes())}
    whole = http.post("/v1/segment", files=files).json()
    for name in FORMATS:
        form = {"format": name, "discard": "1,3-4"}
        answer = http.post("/v1/segment", files=files, data=form)
        assert answer.status_code == 200, answer.text
        assert int(answer.headers["x-nuclei-count"]) == whole["count"] - 3
        assert "3 of" in answer.headers["x-nuclei-warnings"]
    beyond = http.post("/v1/segment", files=files, data={"discard": "9999"})
    assert problem(beyond)[:2] == (400, "InvalidOption")


def test_a_large_answer_is_made_while_it_is_sent(http: httpx.Client, fluorescence: Path) -> None:
    many = cv2.imencode(".png", np.tile(cv2.imread(str(fluorescence), 0), (4, 4)))[1].tobytes()
    answer = http.post("/v1/segment", params="format=geojson", content=many)
    assert answer.status_code == 200
    assert answer.headers["transfer-encoding"] == "chunked"
    assert len(answer.content) > 2 * PIECE_BYTES
    assert len(answer.json()["features"]) == int(answer.headers["x-nuclei-count"])
    port = http.base_url.port
    with socket.create_connection((http.base_url.host, port)) as caller:
        head = f"POST /v1/segment?format=geojson HTTP/1.0\r\nContent-Length: {len(many)}\r\n\r\n"
        caller.sendall(head.encode() + many)
        headers, _, body = b"".join(iter(lambda: caller.recv(2**20), b"")).partition(b"\r\n\r\n")
    assert f"content-length: {len(answer.content)}".encode() in headers.lower()
    assert body == answer.content


BAD_FIELDS: dict[str, tuple[dict[str, Any], dict[str, str], str]] = {
    "unknown": ({"thresh": "1"}, {}, "thresh"),
    "twice": ({"tta": ["1", "0"]}, {}, "more than once"),
    "other than the query": ({"format": "csv"}, {"format": "json"}, "send one of them"),
}


@pytest.mark.parametrize("name", BAD_FIELDS)
def test_bad_form_fields_are_refused_by_name(
    http: httpx.Client, fluorescence: Path, name: str
) -> None:
    data, query, said = BAD_FIELDS[name]
    files = {"file": fluorescence.read_bytes()}
    answer = problem(http.post("/v1/segment", data=data, params=query, files=files))
    assert answer[:2] == (400, "InvalidOption")
    assert said in answer[2]


def test_the_header_accept_is_honoured_or_refused(http: httpx.Client, fluorescence: Path) -> None:
    content = fluorescence.read_bytes()
    csv = http.post("/v1/segment", content=content, headers={"Accept": "text/csv"})
    assert csv.headers["content-type"].startswith("text/csv")
    html = http.post("/v1/segment", content=content, headers={"Accept": "text/html"})
    assert problem(html)[:2] == (406, "NotAcceptable")


def test_gzip_is_honoured_and_other_encodings_are_refused(
    http: httpx.Client, fluorescence: Path
) -> None:
    content = fluorescence.read_bytes()

    def post(data: bytes, encoding: str) -> httpx.Response:
        headers = {"Content-Encoding": encoding}
        return http.post("/v1/segment", params="format=csv", content=data, headers=headers)

    plain = http.post("/v1/segment", params="format=csv", content=content)
    assert post(gzip.compress(content), "gzip").text == plain.text
    assert problem(post(content, "br"))[:2] == (415, "UnsupportedEncoding")
    assert problem(post(content, "gzip"))[:2] == (422, "InvalidImage")
    bomb = gzip.compress(bytes(LIMIT + 1))
    assert problem(post(bomb, "gzip"))[:2] == (413, "FrameTooLarge")


def test_what_was_chosen_or_guessed_is_said_in_every_format(http: httpx.Client) -> None:
    file = io.BytesIO()
    frame = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    metadata = {"axes": "CYX", "Channel": {"Name": ["é-tubulin", 'µ "nuclei"']}}
    channels = np.stack([frame, 1 - frame])
    tifffile.imwrite(file, channels, ome=True, photometric="minisblack", metadata=metadata)
    chosen = {"channel": 'µ "nuclei"'}
    answer = http.post("/v1/segment", params=chosen, content=file.getvalue())
    said = answer.json()["warnings"]
    assert any("channel 1 'µ \"nuclei\"' of 2" in warning for warning in said)
    assert any("float32 from 0 to 1" in warning for warning in said)
    assert answer.json()["intensity_range"]["hi"] == pytest.approx(1, abs=0.01)
    for name in ("csv", "labels.png", "geojson"):
        form = {"format": name, **chosen}
        other = http.post("/v1/segment", data=form, files={"file": file.getvalue()})
        assert json.loads(other.headers["x-nuclei-warnings"]) == said


def test_a_model_is_adjusted_alike_over_every_protocol(
    http: httpx.Client, client: Client, fluorescence: Path
) -> None:
    """And its frames do not count as the model's own in what is watched for drift."""

    def watched() -> float:
        lines = http.get("/metrics").text.splitlines()
        name = "nuclei_quality_frames_total{"
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    body = fluorescence.read_bytes()
    plain, before = http.post("/v1/segment", content=body).json(), watched()
    sent = {"threshold": "0.3", "min_area": "300", "diameter": "20", "format": "json"}
    of_query = http.post("/v1/segment", params=sent, content=body)
    of_form = http.post("/v1/segment", data=sent, files={"file": body})
    asked = {"threshold": 0.3, "min_area_px": 300, "diameter_px": 20}
    results = [client.segment(fluorescence, **asked)]
    for outcome in client.stream([fluorescence], **asked):
        assert outcome.segmentation is not None
        results.append(outcome.segmentation)
    said = of_query.json()
    assert of_form.json()["nuclei"] == said["nuclei"] != plain["nuclei"]
    assert min(nucleus["area_px"] for nucleus in said["nuclei"]) >= 300
    for result in results:
        areas = [nucleus["area_px"] for nucleus in said["nuclei"]]
        assert result.nuclei.area_px.tolist() == areas
        assert list(result.warnings) == said["warnings"]
    for name in ("the threshold was 0.3", "the frame was resampled", "fewer than 300 pixels"):
        assert any(name in warning for warning in said["warnings"])
    assert {"resample", "restore"} < set(results[0].stage_ms)
    assert watched() == before


def test_models_are_listed(http: httpx.Client) -> None:
    said = http.get("/v1/models").json()
    assert said["default_model"] == "unet"
    assert [model["name"] for model in said["models"]] == ["unet"]
    assert said["models"][0]["precision"] in ("bf16", "fp32")
    tuned = said["models"][0]["tuned"]
    assert tuned.keys() == {"threshold", "min_area", "diameter"}
    assert all(0 < tuned["threshold"][kind] < 1 for kind in ("grey", "colour"))
    assert all(tuned["min_area"][kind] > 0 for kind in ("grey", "colour"))
    assert 10 < tuned["diameter"]["colour"] < tuned["diameter"]["grey"] < 50
    assert said["limits"]["max_bytes"] == LIMIT


def test_openapi_names_routes_and_formats(http: httpx.Client) -> None:
    said = http.get("/openapi.json").json()
    version = "/v1/registry/{model}/{version}"
    assert set(said["paths"]) == {
        *("/v1/frame", "/v1/segment", "/v1/models", "/v1/rollout"),
        *("/v1/registry", "/v1/registry/{model}/promote", "/v1/registry/{model}/rollback"),
        *(f"{version}/gates", f"{version}/progress"),
    }
    parameters = {
        parameter["name"]: parameter["schema"]
        for parameter in said["paths"]["/v1/segment"]["post"]["parameters"]
    }
    measures = said["components"]["schemas"]["Quality"]["properties"]
    assert list(measures) == [field.name for field in fields(Quality)]
    assert "geojson" in parameters["format"]["enum"]
    for name in parameters["format"]["enum"]:
        refused = http.post("/v1/segment", params={"format": name}, content=b"x")
        assert problem(refused)[1] == "InvalidImage"


def test_metrics_count_what_happens(http: httpx.Client, fluorescence: Path) -> None:
    def value(*parts: str) -> float:
        lines = http.get("/metrics").text.splitlines()
        return sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if not line.startswith("#") and all(part in line for part in parts)
        )

    ok = ("nuclei_request_seconds_count", 'protocol="http"', 'code="OK"', 'model="unet"')
    bad = ("nuclei_request_seconds_count", 'protocol="http"', 'code="INVALID_ARGUMENT"')
    stages = ("decode", "infer", "postprocess", "measure", "quality", "encode")
    before = {name: value("nuclei_stage_seconds_count", f'stage="{name}"') for name in stages}
    before_ok, before_bad, nuclei = value(*ok), value(*bad), value("nuclei_counted_total")
    found = http.post("/v1/segment", content=fluorescence.read_bytes()).json()["count"]
    http.post("/v1/segment?format=bmp", content=b"x")
    http.post("/v1/segment?model=invented", content=b"x")
    assert value(*ok) == before_ok + 1
    assert value(*bad) == before_bad + 1
    assert value("nuclei_counted_total") == nuclei + found
    for name in stages:
        assert value("nuclei_stage_seconds_count", f'stage="{name}"') == before[name] + 1
    assert "invented" not in http.get("/metrics").text


def test_one_line_is_logged_per_frame(gateway: Any, http: httpx.Client, fluorescence: Path) -> None:
    name = "look-for-me"
    http.post("/v1/segment", content=fluorescence.read_bytes(), headers={"X-Request-ID": name})
    (line,) = [line for line in gateway.process.log.read_text().splitlines() if name in line]
    fields = dict(part.split("=", 1) for part in line.split() if "=" in part)
    assert (fields["code"], fields["model"], fields["protocol"]) == ("OK", "unet", "http")
    assert int(fields["bytes_in"]) == fluorescence.stat().st_size
    assert int(fields["bytes_out"]) > 0
    assert float(fields["infer_ms"]) > 0


@pytest.mark.parametrize(
    ("path", "status"), [("/v1/models", 200), ("/livez", 200), ("/nothing", 404)]
)
def test_every_answer_says_which_version_of_the_software_gave_it(
    http: httpx.Client, path: str, status: int
) -> None:
    answer = http.get(path)
    assert (answer.status_code, answer.headers["server"]) == (
        status,
        f"nuclei-serving/{installed_version()}",
    )
    assert http.post("/v1/segment", content=b"x").headers["server"] == answer.headers["server"]

import pytest

from nuclei.errors import InvalidOption, NotAcceptable
from nuclei.imaging.frame_options import FrameOptions
from nuclei.imaging.selection import Selection
from nuclei.results.coordinates import PixelSize
from serving.gateway.http_options import PARAMETERS, HttpOptions
from serving.gateway.openapi import openapi_document


def options(
    query: dict[str, str] | None = None, form: dict[str, str] | None = None, accept: str = ""
) -> HttpOptions:
    headers = {"accept": accept} if accept else {}
    return HttpOptions.of((query or {}).items(), (form or {}).items(), headers)


ACCEPTED = {
    "": "json",
    "*/*": "json",
    "application/*": "json",
    "text/csv": "csv",
    "TEXT/CSV": "csv",
    "text/html, text/*;q=0.5": "csv",
    "application/json;q=0.5, text/csv": "csv",
    "text/csv, */*": "csv",
    "text/csv;q=0, application/geo+json": "geojson",
    "*/*;q=0.1, application/json;q=0": "labels.tif",
    "image/png": "labels.png",
    "text/csv;charset=utf-8;q=0.3, image/tiff;q=0.2": "csv",
}


@pytest.mark.parametrize("accept", ACCEPTED)
def test_the_header_accept_chooses_the_format(accept: str) -> None:
    assert options(accept=accept).format_name == ACCEPTED[accept]


@pytest.mark.parametrize("accept", ["text/html", "application/json;q=0", "image/bmp, text/html"])
def test_what_cannot_be_answered_is_refused(accept: str) -> None:
    with pytest.raises(NotAcceptable, match="application/json"):
        options(accept=accept)


def test_a_format_that_is_asked_for_has_to_be_accepted() -> None:
    assert options({"format": "overlay.png"}, accept="image/*").format_name == "overlay.png"
    with pytest.raises(NotAcceptable, match="text/csv"):
        options({"format": "csv"}, accept="application/json")


def test_fields_of_a_form_are_options() -> None:
    given = {
        "version": "4",
        "tta": "true",
        "format": "geojson",
        "channel": "DAPI",
        "plane": "3",
        "pixel_size": "0.5,0.25",
        "intensity_range": "100,4000.5",
    }
    found = options(form=given)
    assert found.frame == options(query=given).frame
    assert (found.segmentation.version, found.segmentation.tta) == (4, True)
    assert found.format_name == "geojson"
    assert found.frame == FrameOptions(
        Selection("DAPI", 3), PixelSize(y=0.5, x=0.25), (100.0, 4000.5)
    )


def test_labels_to_leave_out_are_listed_as_ranges() -> None:
    assert options(form={"discard": "3,7, 10-19"}).discard == ((3, 3), (7, 7), (10, 19))
    assert options().discard == ()


def test_a_caller_may_say_when_it_gives_up() -> None:
    deadline = options({"timeout_s": "2.5"}).segmentation.deadline
    assert deadline is not None
    assert 0 < deadline.left_s() <= 2.5
    assert options().segmentation.deadline is None


def test_the_same_in_query_and_form_is_fine() -> None:
    assert options({"tta": "1"}, {"tta": "1", "format": "csv"}).segmentation.tta


BAD = {
    "other values in the query and the form": ({"tta": "1"}, {"tta": "0"}, "send one of them"),
    "unknown field": ({}, {"sigma": "3"}, "form field 'sigma'"),
    "unknown parameter": ({"sigma": "3"}, {}, "query parameter 'sigma'"),
    "no version": ({"version": "newest"}, {}, "number of a version"),
    "no plane": ({"plane": "-1"}, {}, "plane"),
    "two numbers": ({"intensity_range": "5"}, {}, "lo,hi"),
    "no range": ({"intensity_range": "5,5"}, {}, "lo below hi"),
    "no percentiles": ({"intensity_percentiles": "1,101"}, {}, "0 to 100"),
    "two ranges": ({"intensity_percentiles": "1,9", "intensity_range": "1,9"}, {}, "both given"),
    "no numbers": ({"intensity_range": "a,b"}, {}, "'a,b'"),
    "not finite": ({"intensity_range": "0,inf"}, {}, "lo below hi"),
    "no size": ({"pixel_size": "0"}, {}, "above 0"),
    "three sizes": ({"pixel_size": "1,1,1"}, {}, "y,x"),
    "no labels": ({"discard": "3,x"}, {}, "such as 3,7,10-19"),
    "no label 0": ({"discard": "0"}, {}, "such as 3,7,10-19"),
    "no time": ({"timeout_s": "soon"}, {}, "expected seconds"),
    "not a number": ({"timeout_s": "nan"}, {}, "expected seconds"),
    "digits of Python": ({"timeout_s": "1_000"}, {}, "expected seconds"),
    "no time at all": ({"timeout_s": "0"}, {}, "expected seconds"),
    "no projection": ({"project": "mean"}, {}, "max"),
    "plane and projection": ({"plane": "1", "project": "max"}, {}, "choose one"),
}


@pytest.mark.parametrize("case", BAD)
def test_impossible_options_are_refused_by_name(case: str) -> None:
    query, form, said = BAD[case]
    with pytest.raises(InvalidOption, match=said):
        options(query, form)


def test_the_document_names_every_option_for_the_query_and_for_forms() -> None:
    segment = openapi_document("0")["paths"]["/v1/segment"]["post"]
    in_query = {each["name"] for each in segment["parameters"] if each["in"] == "query"}
    form = segment["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    assert in_query == set(PARAMETERS) == set(form) - {"file"}


def test_a_quality_that_is_no_number_is_refused() -> None:
    with pytest.raises(InvalidOption, match="q='x'"):
        options(accept="text/csv;q=x")

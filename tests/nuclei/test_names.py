"""What models, families, requests and acquisitions may be called."""

import pytest

from nuclei.errors import InvalidOption
from nuclei.names import check_id, check_name, is_name, version_number

NAMES = ["unet", "unet_tta", "nuclei-unet", "v1.2", "...", ".a", "x" * 64, "0"]
NO_NAMES = [
    *("", ".", "..", "a/b", "../x", "/somewhere/x", "a b", "a\n", "a\x00", "\x1b[2J", "é", "²"),
    *("x" * 65, "x" * 10**6, None, 7, b"unet"),
]


@pytest.mark.parametrize("name", NAMES)
def test_names(name: str) -> None:
    assert is_name(name)
    check_name(name, "model")


@pytest.mark.parametrize("name", NO_NAMES, ids=lambda name: repr(name)[:20])
def test_what_is_no_name_is_refused_in_a_short_sentence(name: object) -> None:
    assert not is_name(name)
    with pytest.raises(InvalidOption, match=r"^model is .*; expected a name: 1 to 64") as raised:
        check_name(name, "model")
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize("given", ["plate7/A01#3", "urn:uuid:1", "x" * 128])
def test_ids(given: str) -> None:
    check_id(given, "request_id")


@pytest.mark.parametrize("given", ["a b", "a\n", "\x1b", "é", "x" * 129, None])
def test_what_is_no_id_is_refused(given: object) -> None:
    with pytest.raises(InvalidOption, match=r"^request_id is .*; expected at most 128"):
        check_id(given, "request_id")


@pytest.mark.parametrize("given", [4, "4", "04", 2**63 - 1])
def test_versions(given: int | str) -> None:
    assert version_number(given) == int(given)


@pytest.mark.parametrize("given", [0, -1, 2**63, "", "v4", "4.0", 4.0, True, None, "²", "9" * 5000])
def test_what_is_no_version_is_refused(given: object) -> None:
    with pytest.raises(InvalidOption, match=r"^version is .*; expected the number of a version"):
        version_number(given)

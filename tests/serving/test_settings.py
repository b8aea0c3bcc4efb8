"""Settings, read from the environment."""

import pytest

from nuclei.errors import InvalidOption
from serving.gateway.settings import GatewaySettings
from serving.settings import ServeSettings, read_settings, unused_variables


def test_an_impossible_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUCLEI_STOP_S", "soon")
    with pytest.raises(InvalidOption, match="NUCLEI_STOP_S is impossible"):
        read_settings(ServeSettings)


def test_what_is_refused_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUCLEI_THREADS", "a-secret-in-the-wrong-place")
    with pytest.raises(InvalidOption) as raised:
        read_settings(GatewaySettings)
    assert "a-secret" not in str(raised.value)


def test_a_variable_set_to_nothing_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUCLEI_STATE", "")
    monkeypatch.setenv("NUCLEI_HOST", "")
    assert str(read_settings(ServeSettings).state) == ".state"
    assert read_settings(GatewaySettings).host == "127.0.0.1"


@pytest.mark.parametrize(
    ("host", "reachable"),
    [("0.0.0.0", "127.0.0.1"), ("::", "127.0.0.1"), ("192.0.2.7", "192.0.2.7")],
)
def test_this_machine_reaches_a_gateway_on_any_address(host: str, reachable: str) -> None:
    assert GatewaySettings(host=host).reachable_host == reachable


def test_variables_without_effect_are_named() -> None:
    variables = ["NUCLEI_THREADS", "NUCLEI_TREADS", "NUCLEI_TRITON_ADDRESS", "NUCLEI_X\n", "PATH"]
    kinds = (ServeSettings, GatewaySettings)
    assert unused_variables(variables, kinds, ["triton_address"]) == [
        "'NUCLEI_TREADS' has no effect: there is no such setting; did you mean NUCLEI_THREADS?",
        "'NUCLEI_TRITON_ADDRESS' has no effect: this command sets it itself",
        "'NUCLEI_X\\n' has no effect: there is no such setting",
    ]

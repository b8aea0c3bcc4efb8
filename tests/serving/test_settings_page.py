"""The page of all settings."""

from serving.gateway.settings import GatewaySettings
from serving.settings import ServeSettings
from serving.settings_page import PAGE, settings_page


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == settings_page(), "run `make settings`"


def test_every_setting_says_what_it_means() -> None:
    fields = {**ServeSettings.model_fields, **GatewaySettings.model_fields}
    for name, field in fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_no_setting_has_two_declarations() -> None:
    own = [set(settings.__annotations__) for settings in (ServeSettings, GatewaySettings)]
    assert not own[0] & own[1]

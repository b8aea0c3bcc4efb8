"""The options of `nuclei serve`; tests/serving/supervision/test_launcher.py starts it."""

import typer.main

from nuclei.cli.app import app
from serving.gateway.settings import GatewaySettings
from serving.settings import ServeSettings


def test_options_say_what_the_settings_say() -> None:
    fields = {**ServeSettings.model_fields, **GatewaySettings.model_fields}
    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    assert {option.name for option in command.params} < set(fields)
    for option in command.params:
        field = fields[option.name]
        default = f" [{field.default}]" if field.default and not field.default_factory else ""
        assert option.help == f"{field.description.removesuffix('.')}{default}."

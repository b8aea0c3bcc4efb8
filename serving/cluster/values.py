"""What a site changes of an overlay without a copy of it: images, replicas and settings."""

import re
from pathlib import Path
from typing import Annotated, Any, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
)
from pydantic_settings import BaseSettings

from nuclei.errors import InvalidOption
from nuclei.quoting import printable, sentence
from serving.gateway.settings import GatewaySettings
from serving.promotion.settings import SyncSettings
from serving.settings import PREFIX, ProbeSettings, unused_variables

# The settings that the processes of a component read.
SETTINGS: dict[str, tuple[type[BaseSettings], ...]] = {
    "gateway": (GatewaySettings,),
    "triton": (SyncSettings, ProbeSettings),
}
# NAME, NAME:TAG or NAME@DIGEST; a port may be in the name.
_IMAGE = re.compile(
    r"(?P<name>[\w./-]+(?::\d+/[\w./-]+)?)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


def image_name(image: str) -> str:
    """An image's name without its tag and digest: `registry.example:5000/nuclei-serving`."""
    found = _IMAGE.fullmatch(image)
    return image if found is None else found["name"]


def image_version(image: str) -> dict[str, str]:
    """What of kustomize's fields says which version of an image it is: its digest, or its tag."""
    found = _IMAGE.fullmatch(image)
    if found is None:
        return {}
    return {"digest": found["digest"]} if found["digest"] else {"newTag": found["tag"] or ""}


def _pinned(image: str) -> str:
    version = image_version(image)
    if version.get("newTag", "latest") in ("", "latest") and "digest" not in version:
        raise ValueError(
            "expected an image by its digest (NAME@sha256:...) or by a tag other than latest"
        )
    return image


def _text(value: object) -> object:
    """A variable as the environment has it: YAML reads numbers and truths."""
    return str(value).lower() if isinstance(value, bool | int | float) else value


class Values(BaseModel):
    """The values of a site; a file of YAML holds them.

    Attributes:
        images: what is run instead of an image of the overlay, by that image's name without tag:
            `nuclei-serving: registry.example/nuclei-serving@sha256:...`.
        replicas: pods by Deployment, where no autoscaler sets them.
        settings: variables by ConfigMap: `gateway: {NUCLEI_DRAIN_S: 60}`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: dict[str, Annotated[str, AfterValidator(_pinned)]] = {}
    replicas: dict[str, Annotated[int, Field(ge=0, le=1000, strict=True)]] = {}
    settings: dict[str, dict[str, Annotated[str, BeforeValidator(_text)]]] = {}


def read_values(path: Path) -> Values:
    """The values of a file.

    Raises:
        InvalidOption: it is no YAML, or one of them is impossible; names the field.
        OSError: it cannot be read.
    """
    try:
        given: Any = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidOption(f"{printable(str(path))} is no YAML: {sentence(error)}") from error
    try:
        return Values.model_validate({} if given is None else given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"])) or "the file"
        raise InvalidOption(
            f"{printable(str(path))}: {field}: {first['msg']}; expected images, replicas and "
            "settings as docs/kubernetes.md shows"
        ) from None


def check_settings(component: str, variables: dict[str, str], where: str) -> None:
    """Check the variables of a ConfigMap that a component of ours reads.

    Args:
        component: `gateway` or `triton`; those of others are not ours to judge.
        variables: by name.
        where: names them in a message: `settings.gateway`.

    Raises:
        InvalidOption: there is no such setting, or its value is impossible.
    """
    settings = SETTINGS.get(component, ())
    if not settings:
        return
    for said in unused_variables(variables, settings, ()):
        raise InvalidOption(f"{where}: {said}; docs/settings.md has them all")
    given = {
        name.removeprefix(PREFIX).lower(): value
        for name, value in variables.items()
        if name.startswith(PREFIX) and value
    }
    for each in settings:
        _check_values(
            each, {name: given[name] for name in each.model_fields if name in given}, where
        )


def _check_values(settings: type[BaseSettings], given: dict[str, str], where: str) -> None:
    for name in given:
        annotation = settings.model_fields[name].annotation
        if annotation is SecretStr or SecretStr in get_args(annotation):
            raise InvalidOption(
                f"{where}.{PREFIX}{name.upper()} is a secret, which everybody can read in a "
                "ConfigMap: put it into a Secret, as docs/kubernetes.md shows"
            )
    try:
        settings.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        variable = PREFIX + "_".join(map(str, first["loc"])).upper()
        raise InvalidOption(
            f"{where}.{variable}: {first['msg']}; docs/settings.md says what it may be"
        ) from None

"""The OpenAPI document of the HTTP routes, for clients and for tests that explore them."""

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from pydantic import BaseModel

from nuclei.formats import FORMATS
from nuclei.results.adjustments import MAX_AREA_PX, MAX_DIAMETER_PX, MIN_DIAMETER_PX
from nuclei.results.quality import Quality
from serving import registry_report, rollout_report
from serving.gateway.http_options import MAX_TIMEOUT_S, PICTURE_PARAMETERS
from serving.gateway.http_pictures import MEDIA_TYPE as PICTURE_TYPE
from serving.gateway.observation import UNEXPECTED
from serving.registry_report import (
    Changed,
    GatesReport,
    Progress,
    Promotion,
    RegistryReport,
    Rollback,
)
from serving.rollout_report import RolloutReport

_PROBLEMS = {
    "400": "an option is wrong",
    "401": "the token is missing or wrong",
    "403": "the token is not the administrator's",
    "404": "there is no such model; of a registry, or this gateway knows none, or changes none",
    "406": "the header Accept names no format of the answer",
    "409": "the version is refused, or another one is in use by now than was expected",
    "413": "the frame is over a limit",
    "415": "the header Content-Encoding names another encoding than gzip",
    "422": "the body is not a frame that can be read",
    "429": "too much work at once; try again later",
    "500": UNEXPECTED,
    "503": "the inference server, or the registry, does not answer",
    "504": "the time ran out",
}

# Of requests with a frame.
_FRAME = [status for status in _PROBLEMS if status not in ("403", "409")]

_HEADERS = {
    "X-Request-ID": "the request's name, or a new one",
    "X-Model": "the model that answered",
    "X-Model-Version": "its version",
    "X-Nuclei-Count": "number of nuclei",
    "X-Nuclei-Intensity-Range": "lo,hi: the values that became black and white for the network",
    "X-Nuclei-Warnings": "what was guessed, chosen or is doubtful: a JSON list of sentences, in "
    "ASCII; absent when nothing is",
    "X-Nuclei-Quality": "how good the frame and its segmentation look: the object Quality in JSON",
    "Server": "version of the service, such as nuclei-serving/0.2.0",
    "Server-Timing": "time of each step (wait, decode, tile, infer, postprocess, measure, quality, "
    "encode; resample and restore with a diameter) on the server, milliseconds",
}

_NUMBERS = {"type": "string", "pattern": "^[-+.0-9e]+(,[-+.0-9e]+)?$"}

_LABELS = "[1-9][0-9]{0,9}(-[1-9][0-9]{0,9})?"

# A registered model, or its family, and one of its versions.
_IN_PATH = {
    "model": {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,64}$"},
    "version": {"type": "integer", "minimum": 1},
}

# Path, method, summary, body, answer, and problems besides those of every path of the registry.
_Asked = tuple[str, str, str, type[BaseModel] | None, type[BaseModel], tuple[str, ...]]

# In the query, or as fields of the form beside the file.
_PARAMETERS: dict[str, dict[str, Any]] = {
    "model": {
        "type": "string",
        "pattern": "^[A-Za-z0-9_.-]{1,64}$",
        "description": "name of a model; absent: the default one",
    },
    "version": {
        "type": "integer",
        "minimum": 1,
        "description": "a version of the model that is loaded; absent: the one in use",
    },
    "tta": {"type": "boolean", "description": "mean over 8 rotations and reflections"},
    "channel": {
        "type": "string",
        "minLength": 1,
        "description": "the channel to segment: its name, or its number from 0",
    },
    "plane": {"type": "integer", "minimum": 0, "description": "the plane to segment, from 0"},
    "project": {"enum": ["max"], "description": "how the planes of a stack become one"},
    "pixel_size": _NUMBERS
    | {"description": "micrometres: one number, or y,x; absent: what the file says"},
    "intensity_range": _NUMBERS
    | {
        "description": "lo,hi: the values of the frame that become black and white for the "
        "network; absent: what the server finds",
    },
    "intensity_percentiles": _NUMBERS
    | {"description": "lo,hi: the same as percentiles of all pixels, 0 to 100"},
    "threshold": {
        "type": "number",
        "exclusiveMinimum": 0,
        "exclusiveMaximum": 1,
        "description": "foreground probability from which a pixel belongs to a nucleus (of models "
        "that find nuclei one by one, the least score of a nucleus); lower finds more, and more "
        "that is none; absent: what the model was tuned to",
    },
    "min_area": {
        "type": "integer",
        "minimum": 0,
        "maximum": MAX_AREA_PX,
        "description": "nuclei of fewer pixels are left out; absent: what the model was tuned to",
    },
    "diameter": {
        "type": "number",
        "minimum": MIN_DIAMETER_PX,
        "maximum": MAX_DIAMETER_PX,
        "description": "what nuclei are expected to measure across, pixels: the frame is resampled "
        "so that they have the size that the model was tuned to; absent: it is segmented as it is",
    },
    "format": {
        "enum": list(FORMATS),
        "description": "what to answer; absent: what the header Accept prefers, else json",
    },
    "discard": {
        "type": "string",
        "pattern": f"^{_LABELS}(,{_LABELS})*$",
        "description": "labels of nuclei to leave out, such as 3,7,10-19; the others keep theirs. "
        "Ask for the version and with the options of the result that they are of",
    },
    "timeout_s": {
        "type": "number",
        "exclusiveMinimum": 0,
        "maximum": MAX_TIMEOUT_S,
        "description": "when to give up, seconds after the frame has arrived; absent: "
        "default_timeout_s of /v1/models",
    },
}


def openapi_document(server_version: str) -> dict[str, Any]:
    """OpenAPI 3.1 of `/v1`."""
    schema, parts = _schema(RolloutReport)
    registry, registry_parts = _registry()
    return {
        "openapi": "3.1.0",
        "info": {"title": "Nuclei segmentation", "version": server_version},
        "paths": {
            "/v1/frame": {"post": _frame()},
            "/v1/segment": {"post": _segment()},
            "/v1/models": {
                "get": {
                    "summary": "The models served now, and the limits",
                    "responses": {
                        "200": {
                            "description": "models and limits",
                            "content": {"application/json": {"schema": {"type": "object"}}},
                        },
                        **_problems("401", "500", "503", "504"),
                    },
                }
            },
            rollout_report.PATH: {
                "get": {
                    "summary": "What this gateway has found out about challengers",
                    "responses": {
                        "200": {
                            "description": "one entry for each challenger on trial",
                            "content": {"application/json": {"schema": schema}},
                        },
                        **_problems("401", "500"),
                    },
                }
            },
            **registry,
        },
        # A gateway without NUCLEI_TOKEN asks for none.
        "security": [{}, {"token": []}],
        "components": {
            "schemas": {"Problem": _problem_schema(), "Quality": _quality_schema()}
            | parts
            | registry_parts,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _schema(kind: type[BaseModel]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The schema of an answer or a body, and those that it refers to, by name."""
    schema = kind.model_json_schema(
        ref_template="#/components/schemas/{model}", mode="serialization"
    )
    return schema, schema.pop("$defs", {})


def _registry() -> tuple[dict[str, Any], dict[str, Any]]:
    """The paths of the registry, and the schemas that they refer to."""
    path, model = registry_report.PATH, f"{registry_report.PATH}/{{model}}"
    reading = ("401", "404", "422", "429", "500", "503")
    asked: list[_Asked] = [
        (path, "get", "What is registered, and what the gates said", None, RegistryReport, ()),
        (
            f"{model}/{{version}}/gates",
            *("get", "Each gate of a version", None, GatesReport, ("400",)),
        ),
        (
            f"{model}/{{version}}/progress",
            *("get", "How far a promoted version is; for the administrator", None, Progress),
            ("400", "403", "409"),
        ),
        (
            f"{model}/promote",
            *("post", "Let a version answer; for the administrator", Promotion, Changed),
            ("400", "403", "409"),
        ),
        (
            f"{model}/rollback",
            *("post", "Go back; for the administrator", Rollback, Changed),
            ("400", "403", "409"),
        ),
    ]
    paths: dict[str, Any] = {}
    parts: dict[str, Any] = {}
    for where, method, summary, body, answer, problems in asked:
        schema, found = _schema(answer)
        parts |= found
        content = {"application/json": {"schema": schema}}
        operation: dict[str, Any] = {
            "summary": summary,
            "responses": {
                "200": {"description": "as it is", "content": content},
                **_problems(*sorted({*reading, *problems})),
            },
        }
        if names := [name for name in _IN_PATH if f"{{{name}}}" in where]:
            operation["parameters"] = [
                {"name": name, "in": "path", "required": True, "schema": _IN_PATH[name]}
                for name in names
            ]
        if body is not None:
            schema, found = _schema(body)
            parts |= found
            content = {"application/json": {"schema": schema}}
            operation["requestBody"] = {"required": True, "content": content}
        paths[where] = {method: operation}
    return paths, parts


def _frame() -> dict[str, Any]:
    return {
        "summary": "The pixels of a frame as they would be segmented",
        "description": "What a page shows before, or beside, the nuclei. A file with several "
        "channels or planes of which none is chosen is refused with ChoiceRequired, whose problem "
        "lists them.",
        **_receiving(PICTURE_PARAMETERS),
        "responses": {
            "200": {
                "description": "four bytes, the length of what follows (little-endian); a "
                "description in JSON: height_px, width_px, channels (1 or 3), dtype (uint8 or "
                "uint16), scale (a value of the file is offset + step * pixel), intensity_range, "
                "pixel_size_um, choices (channels by name, number of planes), warnings; and the "
                "pixels, [height, width, channels], little-endian",
                "headers": {
                    name: {"description": _HEADERS[name], "schema": {"type": "string"}}
                    for name in ("X-Request-ID", "Server", "Server-Timing")
                },
                "content": {PICTURE_TYPE: {}},
            },
            **_problems(*(status for status in _FRAME if status not in ("404", "406"))),
        },
    }


def _segment() -> dict[str, Any]:
    return {
        "summary": "Segment the nuclei of one frame",
        **_receiving(_PARAMETERS),
        "responses": {
            "200": {
                "description": "the nuclei, in the chosen format",
                "headers": {
                    name: {"description": description, "schema": {"type": "string"}}
                    for name, description in _HEADERS.items()
                },
                "content": {format_.media_type: {} for format_ in FORMATS.values()}
                | {"application/json": {"schema": _report_schema()}},
            },
            **_problems(*_FRAME),
        },
    }


def _receiving(names: Iterable[str]) -> dict[str, Any]:
    """A frame and the parameters beside it."""
    binary = {"type": "string", "contentMediaType": "application/octet-stream"}
    parameters = {name: _PARAMETERS[name] for name in names}
    form = {"type": "object", "properties": {"file": binary, **parameters}, "required": ["file"]}
    return {
        "parameters": [
            *(
                {"name": name, "in": "query", "schema": schema}
                for name, schema in parameters.items()
            ),
            {
                "name": "X-Request-ID",
                "in": "header",
                "description": "names the request in the log; absent or empty: a new name",
                "schema": {"type": "string", "pattern": "^[!-~]{0,128}$"},
            },
        ],
        "requestBody": {
            "description": "the file itself: PNG, JPEG, TIFF or OME-TIFF; may be compressed with "
            "gzip (Content-Encoding)",
            "required": True,
            "content": {
                "application/octet-stream": {"schema": binary},
                "multipart/form-data": {"schema": form},
            },
        },
    }


def _problems(*statuses: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    content = {"application/problem+json": {"schema": schema}}
    return {status: {"description": _PROBLEMS[status], "content": content} for status in statuses}


def _report_schema() -> dict[str, Any]:
    """Of format=json, as far as it does not explain itself."""
    return {
        "type": "object",
        "required": ["model", "version", "count", "nuclei", "quality"],
        "properties": {"quality": {"$ref": "#/components/schemas/Quality"}},
    }


def _quality_schema() -> dict[str, Any]:
    measure = {"type": ["number", "null"]}
    return {
        "description": "measures of how good the frame and its segmentation look; null is one that "
        "is not known for this frame",
        "type": "object",
        "properties": {field.name: measure for field in fields(Quality)},
    }


def _problem_schema() -> dict[str, Any]:
    return {
        "description": "RFC 9457; title is the class of nuclei.errors, or the phrase of the status "
        "where type is about:blank",
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "channels": {
                "description": "of ChoiceRequired: names of the channels, empty for one without",
                "type": "array",
                "items": {"type": "string"},
            },
            "planes": {
                "description": "of ChoiceRequired: number of planes of each channel",
                "type": "integer",
            },
        },
    }

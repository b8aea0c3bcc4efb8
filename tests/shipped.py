"""The model in the repository, which many tests serve: another version needs no other test."""

from pathlib import Path

from nuclei.inference.model_config import read_model_config, routing_of

SHIPPED = Path(__file__).parents[1] / "model_repository"
VERSION = routing_of(read_model_config(SHIPPED / "unet" / "config.pbtxt")).champion
GRAPH = f"unet.{VERSION}"
NETWORK = f"unet_network.{VERSION}"

"""The gates of versions of a registry, without Triton but where it says so."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from mlflow import MlflowClient
from serving.promotion.made_models import MODEL, Image, discs, register, write_artifacts

from nuclei.errors import VersionRefused
from nuclei.evaluation.unseen import TRAINED_ON_FILE, write_trained_on
from nuclei.inference.contract import CONTRACT_FILE, MAX_BYTES, Contract
from nuclei.inference.reference import REFERENCE_FILE
from serving.promotion.accuracy import Bounds, EvaluationSet
from serving.promotion.gates import Judge, Judgement, Policy, record
from serving.promotion.report import page
from serving.promotion.state import read_state
from serving.registry import Registry

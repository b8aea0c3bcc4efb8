"""Artifacts of a model small enough to be exported in seconds."""

from pathlib import Path

import pytest
import torch
from torch import nn

from nuclei.contract import CONTRACT_FILE, Contract
from training.graphs import export_graphs


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What training registers: the graphs of a U-Net of one convolution, and their contract."""
    folder = tmp_path_factory.mktemp("artifacts")
    torch.manual_seed(0)
    export_graphs(nn.Conv2d(3, 3, 3, padding=1).eval(), folder)
    contract = Contract("unet", validation={"dsb_score": 0.5, "dsb_score/histology": 0.25})
    (folder / CONTRACT_FILE).write_text(contract.to_json())
    return folder

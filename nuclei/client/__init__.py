"""Clients of a running gateway: `Client` blocks, `AsyncClient` is for asyncio."""

from nuclei.client.acquisition import FrameIndex, Outcome, StagePosition, StreamFrame
from nuclei.client.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client", "FrameIndex", "Outcome", "StagePosition", "StreamFrame"]

"""Triton and the gateway as one service: start, watch, restart."""

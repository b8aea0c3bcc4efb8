"""Triton Inference Server on this machine: prerequisites, backend and process."""

"""Triton's backend `onnxruntime` in Python; its files are copied next to `tritonserver`."""

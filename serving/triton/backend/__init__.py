"""Triton's backend `onnxruntime` in Python: these files are copied beside `tritonserver`."""

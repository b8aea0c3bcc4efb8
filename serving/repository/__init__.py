"""Triton model repositories: a folder for each step of a graph, and one for each ensemble of steps.

export              adds a model version: its ONNX files and their configurations
configuration       the config.pbtxt of a step and of an ensemble
files               whether a file is one, and not too large
checks              what Triton would refuse to load, here and in NVIDIA's container
listing             the models that callers can ask for
"""

"""From a registered model version to live traffic: gated, observed, reversible.

The MLflow registry is the one truth: aliases `champion` and `challenger`, and tags.

state               what the registry says about a model: versions, gates, rollout, who serves it
artifacts           the files of a version and their digest
"""

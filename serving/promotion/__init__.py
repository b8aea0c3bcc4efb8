"""From a registered model version to live traffic: gated, observed, reversible.

artifacts           the files of a version and their digest
"""

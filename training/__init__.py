"""Images to registered model versions."""

"""`nuclei train`: train and register a segmenter."""

import typer

from nuclei.cli.train import unet

app = typer.Typer(
    help="Train a segmenter on your images, tracked and registered in MLflow.",
    no_args_is_help=True,
)
app.command(epilog=unet.EPILOG)(unet.unet)


@app.callback()
def _group() -> None:
    """Keep `unet` a subcommand."""

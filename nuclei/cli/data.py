"""`nuclei data`: fetch and check data sets."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(help="Fetch and check data sets.", no_args_is_help=True)

DOWNLOAD_EPILOG = """
**Examples**

nuclei data download data/                          (stage1_train.zip, about 80 MB)

nuclei data download data/ --archive stage1_test.zip --archive stage2_test_final.zip
"""


@app.command(epilog=DOWNLOAD_EPILOG)
def download(
    folder: Annotated[Path, typer.Argument(help="Folder that receives the archives.")],
    archive: Annotated[
        list[str] | None,
        typer.Option(help="Archive of BBBC038; repeat for several.", show_default=False),
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Address of the folder of archives, for a mirror.")
    ] = None,
    sha256: Annotated[
        str | None, typer.Option(help="Expected SHA-256 of the archive (with one --archive).")
    ] = None,
) -> None:
    """Download the 2018 Data Science Bowl's nuclei (BBBC038, CC0); resumes and verifies.

    Archives: stage1_train.zip (default), stage1_test.zip, stage2_test_final.zip.
    """
    from nuclei.errors import InvalidOption
    from training.download import ARCHIVES, SOURCE
    from training.download import download as fetch

    names = archive or [ARCHIVES[0]]
    unknown = sorted(set(names) - set(ARCHIVES))
    if unknown:
        raise InvalidOption(f"unknown archive {unknown[0]}; expected {', '.join(ARCHIVES)}")
    if sha256 and len(names) > 1:
        raise InvalidOption("--sha256 belongs to one archive; name one --archive with it")
    for name in names:
        path = fetch(f"{source or SOURCE}/{name}", folder, sha256)
        Console().print(f"{path}: whole; next: nuclei data check {path}")


@app.command()
def check(
    data: Annotated[Path, typer.Argument(help="Folder or zip of images and masks.")],
) -> None:
    """Read every image and mask, name what cannot be used, and count what can.

    Example: nuclei data check my_images/
    """
    from training.dataset import fingerprint, read_dataset, summary

    samples = read_dataset(data)
    table = Table("kind", "images", "nuclei", title=str(data))
    for kind, (n_images, n_nuclei) in summary(samples).items():
        table.add_row(kind, str(n_images), str(n_nuclei))
    Console().print(table)
    Console().print(f"fingerprint {fingerprint(samples)}")

"""`nuclei data`: fetch, check and convert data sets."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from nuclei.cli.dataset import CategoryOption
from nuclei.console import output

app = typer.Typer(help="Fetch, check and convert data sets.", no_args_is_help=True)

DOWNLOAD_EPILOG = """
**Examples**

nuclei data download data/                          (stage1_train.zip, about 80 MB)

nuclei data download data/ --archive stage1_test.zip --archive stage2_test_final.zip
"""

CONVERT_EPILOG = """
**Examples**

nuclei data convert stage1_train.zip nuclei_coco/ --to coco

nuclei data convert my_coco_export/ my_images/ --to labels

nuclei data convert my_images/ nuclei_yolo/ --to yolo      (with data.yaml, for ultralytics)
"""


@app.command(epilog=DOWNLOAD_EPILOG)
def download(
    folder: Annotated[Path, typer.Argument(help="Folder that receives the archives.")],
    archive: Annotated[
        list[str] | None,
        typer.Option(help="Archive of BBBC038; repeat for several.", show_default=False),
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="URL of the folder of archives, for a mirror.")
    ] = None,
    sha256: Annotated[
        str | None, typer.Option(help="Expected SHA-256 of the archive (with one --archive).")
    ] = None,
) -> None:
    """Download the 2018 Data Science Bowl's images (BBBC038, CC0); resumes and verifies.

    Archives: stage1_train.zip (default), stage1_test.zip, stage2_test_final.zip.
    """
    from nuclei.errors import InvalidOption
    from training.data.download import ARCHIVES, SOURCE
    from training.data.download import download as fetch

    names = archive or [ARCHIVES[0]]
    unknown = sorted(set(names) - set(ARCHIVES))
    if unknown:
        raise InvalidOption(f"unknown archive {unknown[0]}; expected {', '.join(ARCHIVES)}")
    if sha256 and len(names) > 1:
        raise InvalidOption("--sha256 belongs to one archive; name one --archive with it")
    for name in names:
        path = fetch(f"{source or SOURCE}/{name}", folder, sha256)
        output().print(f"{path}: complete; next: nuclei data check {path}")


@app.command()
def check(
    data: Annotated[Path, typer.Argument(help="Folder or zip of images and masks.")],
    category: CategoryOption = None,
) -> None:
    """Read every image and mask, name the files that cannot be used, and count the others.

    Example: nuclei data check my_images/
    """
    from training.data.dataset import fingerprint, read_dataset, summary

    samples = read_dataset(data, category or ())
    table = Table("modality", "images", "nuclei", title=str(data))
    for modality, (n_images, n_nuclei) in summary(samples).items():
        table.add_row(modality, str(n_images), str(n_nuclei))
    output().print(table)
    output().print(f"fingerprint {fingerprint(samples)}")


@app.command(epilog=CONVERT_EPILOG)
def convert(
    data: Annotated[Path, typer.Argument(help="Folder or zip in any form that training reads.")],
    folder: Annotated[Path, typer.Argument(help="New folder that receives the data set.")],
    to: Annotated[str, typer.Option(help="labels, coco or yolo.")],
    category: CategoryOption = None,
) -> None:
    """Convert a data set to label images, COCO or YOLO.

    The result is read back and compared: the counts of images and nuclei before and after, and how
    many label images changed. Only YOLO changes pixels: its polygons have no holes and one part.
    """
    from training.data.conversion import write_dataset
    from training.data.dataset import read_dataset, summary

    samples = read_dataset(data, category or ())
    write_dataset(samples, folder, to)
    written = {sample.id: sample for sample in read_dataset(folder)}
    console = output()
    table = Table("modality", "images in", "images out", "nuclei in", "nuclei out")
    counted_in, counted_out = summary(samples), summary(list(written.values()))
    for modality, n_in in counted_in.items():
        n_out = counted_out.get(modality, (0, 0))
        table.add_row(modality, *(str(n) for pair in zip(n_in, n_out, strict=True) for n in pair))
    console.print(table)
    changed = [int((sample.labels != written[sample.id].labels).sum()) for sample in samples]
    n_images = sum(pixels > 0 for pixels in changed)
    console.print(f"{n_images} images changed, by {sum(changed)} pixels in all")

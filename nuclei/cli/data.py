"""`nuclei data`: fetch, check and convert data sets."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from nuclei.cli.dataset import CategoryOption, title_of
from nuclei.cli.reading import ChannelOption, PlaneOption, ProjectOption
from nuclei.console import output, print_warning

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


ADD_EPILOG = """
**Examples**

nuclei data add my_images/ --image slide_1.tif --truth slide_1.geojson      (exported by QuPath)

nuclei data add my_images/ --image a.tif --truth a.labels.tif --image b.tif --truth b.rois.zip

nuclei data add my_images/ --image big.tif --truth big.labels.tif --region 0,0,1024,1024

Then: nuclei train unet my_images/ --from champion --name mylab
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
def catalog() -> None:
    """List public data sets of nuclei: licence, citation, and the page where a person gets each.

    `nuclei data check` recognises the images and masks that the shipped model learned from by their
    fingerprint. What learned from a set whose licence has NC in it must not be sold.
    """
    from training.data.catalog import CATALOG

    console = output()
    table = Table("data set", "images of", "licence", "where", show_lines=True)
    for known in CATALOG:
        table.add_row(known.name, known.content, known.licence, known.where)
    console.print(table)
    for known in CATALOG:
        console.print(f"{known.name}: {known.citation}", soft_wrap=True, markup=False)
        if known.fingerprint:
            told = f"  fingerprint {known.fingerprint}   ({known.changes})"
            console.print(told, soft_wrap=True, markup=False)


@app.command()
def check(
    data: Annotated[list[Path], typer.Argument(help="Folders and zips of images and masks.")],
    category: CategoryOption = None,
) -> None:
    """Read every image and mask, name the files that cannot be used, and count the others.

    Also tells the licence, as training would note it: that of a public data set that is recognised,
    or what the manifest says.

    Example: nuclei data check my_images/
    """
    from training.data.dataset import fingerprint, read_datasets
    from training.data.provenance import data_sets

    samples = read_datasets(data, category or ())
    columns = ("source", "modality", "images", "nuclei", "licence")
    table = Table(*columns, title=title_of(data))
    for one in data_sets(samples, ""):
        for modality, n_images in one.images.items():
            n_nuclei = one.nuclei[modality]
            table.add_row(one.name, modality, str(n_images), str(n_nuclei), one.licence)
    output().print(table)
    output().print(f"fingerprint {fingerprint(samples)}")


@app.command(epilog=ADD_EPILOG)
def add(
    folder: Annotated[Path, typer.Argument(help="Folder of the data set; made when missing.")],
    image: Annotated[list[Path], typer.Option(help="An image; repeat for several.")],
    truth: Annotated[
        list[Path],
        typer.Option(
            help="Its corrected nuclei, in the order of the images: a label image (TIFF, PNG; "
            "napari's labels), GeoJSON (QuPath's or ours), coco.json, labelme's JSON, or a zip of "
            "ImageJ's ROI Manager."
        ),
    ],
    by: Annotated[
        str, typer.Option(help="Who corrected them [the user of this machine].", show_default=False)
    ] = "",
    corrected_from: Annotated[
        str,
        typer.Option(
            help="Model and version whose answer was corrected: unet:3.", show_default=False
        ),
    ] = "",
    modality: Annotated[
        str,
        typer.Option(
            help="What the images are: fluorescence, histology, brightfield, or a word of your own "
            "[guessed].",
            show_default=False,
        ),
    ] = "",
    region: Annotated[
        str,
        typer.Option(
            help="The part of the image in which all nuclei are outlined, as X,Y,WIDTH,HEIGHT in "
            "pixels; only this is added [all, or the rectangle around QuPath's detections].",
            show_default=False,
        ),
    ] = "",
    category: CategoryOption = None,
    channel: ChannelOption = "",
    plane: PlaneOption = "",
    project: ProjectOption = "",
) -> None:
    """Add images with corrected nuclei to a data set that `nuclei train` takes.

    Everything that is not outlined is learned as background: outline all nuclei of an image, or say
    with --region where you did. An image that is there already is refused, whatever its name.
    provenance.csv notes of each image who corrected what, when, and from which files.

    Files that cannot be used are named, and the others are added; the exit code is not 0 then.
    """
    import getpass

    from nuclei.errors import InvalidData, InvalidInput, InvalidOption
    from nuclei.imaging.frame_options import FrameOptions
    from nuclei.quoting import listed
    from training.data.corrections import CorrectedSet, Correction, Region
    from training.folders import writing

    if len(image) != len(truth):
        raise InvalidOption(
            f"{len(image)} images and {len(truth)} files with nuclei were named; expected --truth "
            "for each --image"
        )
    options = FrameOptions.of_text(channel, plane, project)
    part = Region.of_text(region) if region else None
    console, failed = output(), []
    with writing(folder):
        data = CorrectedSet(folder)
        for one, its_truth in zip(image, truth, strict=True):
            correction = Correction(
                image=one,
                truth=its_truth,
                by=by or getpass.getuser(),
                corrected_from=corrected_from,
                modality=modality,
                categories=tuple(category or ()),
                region=part,
                options=options,
            )
            try:
                added = data.add(correction)
            except InvalidInput as error:
                failed.append(str(error))
                continue
            console.print(f"{one}: added as {added.id}, {added.n_nuclei} nuclei", soft_wrap=True)
            for note in added.notes:
                print_warning(f"{added.id}: {note}")
    if failed:
        raise InvalidData(
            f"{len(failed)} of {len(image)} images were not added to {folder}{listed(failed)}"
        )


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

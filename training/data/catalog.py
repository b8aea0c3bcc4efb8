"""Public data sets of nuclei: their licences, how their authors ask to be cited, where they are.

Each fact is from the data set's own page, or from where that is quoted.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from training.data.dataset import Sample, fingerprint


@dataclass(frozen=True)
class KnownSet:
    """A public data set.

    Attributes:
        name: short, as people call it.
        content: what its images show.
        licence: SPDX.
        citation: how its authors ask to be cited.
        where: page where a person gets it.
        fingerprint: of the images and masks that the shipped model learned from, as
            `training.data.dataset.fingerprint`; empty where it learned from none of them.
        changes: what those differ in from what is found there.
    """

    name: str
    content: str
    licence: str
    citation: str
    where: str
    fingerprint: str = ""
    changes: str = ""


CATALOG = (
    KnownSet(
        "BBBC038",
        "the 2018 Data Science Bowl: fluorescence, stained tissue and brightfield of many "
        "laboratories",
        "CC0-1.0",
        'J. C. Caicedo et al., "Nucleus segmentation across imaging experiments: the 2018 Data '
        'Science Bowl", Nature Methods 16 (2019), doi:10.1038/s41592-019-0612-7',
        "https://bbbc.broadinstitute.org/BBBC038",
        "e6d1049a05f72247fee5104850c27e2f61edfa913a87d9b28464dadf2ffcdb13",
        "611 of the 670 training images, their masks as label images",
    ),
    KnownSet(
        "BBBC039",
        "U2OS cells, Hoechst, 16 bit, 520 x 696 pixels",
        "CC0-1.0",
        'J. C. Caicedo et al., "Evaluation of deep learning strategies for nucleus segmentation '
        'in fluorescence images", Cytometry Part A 95(9):952-965 (2019), '
        "doi:10.1002/cyto.a.23863",
        "https://bbbc.broadinstitute.org/BBBC039",
    ),
    KnownSet(
        "BBBC050",
        "mouse embryos, confocal stacks, 16 bit: few, large, dim nuclei",
        "CC-BY-3.0",
        'Y. Tokuoka et al., "3D convolutional neural networks-based segmentation to acquire '
        'quantitative criteria of the nucleus during mouse embryogenesis", npj Systems Biology '
        "and Applications 6:32 (2020), doi:10.1038/s41540-020-00152-8, from the Broad Bioimage "
        "Benchmark Collection [Ljosa et al., Nature Methods, 2012]",
        "https://bbbc.broadinstitute.org/BBBC050",
        "60ac9c877551c0223ba996088fc5ba96f686607a5d9b5a2749dbcc9330227db1",
        "planes with the most nuclei, enlarged by two; a nucleus only near its middle",
    ),
    KnownSet(
        "S-BSST265",
        "DAPI: tumour sections, cytospins, imprints, cell lines; 10x to 63x, widefield and "
        "confocal",
        "CC0-1.0",
        'F. Kromp et al., "An annotated fluorescence image dataset for training nuclear '
        'segmentation methods", Scientific Data 7:262 (2020), doi:10.1038/s41597-020-00608-w',
        "https://www.ebi.ac.uk/biostudies/studies/S-BSST265",
        "e6a5dd8675dc14f6b7a751e5689b7f2ad80540b15909bf1727930a199f149e71",
        "one grey channel, shrunk where nuclei are wider than 70 px, cut at 1024 px",
    ),
    KnownSet(
        "Aitslab_bioimaging1",
        "U2OS cells, Hoechst, 20x, with a haze of cytoplasm",
        "CC-BY-4.0",
        'M. Arvidsson, S. Kazemi Rashed, S. Aits, "An annotated high-content fluorescence '
        "microscopy dataset with Hoechst 33342-stained nuclei and manually labelled "
        'outlines", Data in Brief 46:108769 (2023), doi:10.1016/j.dib.2022.108769',
        "https://doi.org/10.5281/zenodo.6657260",
        "104462309a6ccc66ecd1039c91a1b66a17e1ce07d110e9ace1497e51cc0e819b",
        "shrunk by half, objects below 40 px dropped",
    ),
    KnownSet(
        "Coelho2009",
        "U2OS and NIH3T3 cells, Hoechst, with debris and nuclei out of focus",
        # "If you want to use ... any of the images in the dataset, feel free, as long as you cite
        # our paper", says the authors' page.
        "LicenseRef-Coelho2009",
        'L. P. Coelho, A. Shariff, R. F. Murphy, "Nuclear segmentation in microscope cell images: '
        'A hand-segmented dataset and comparison of algorithms", IEEE ISBI 2009, pp. 518-521, '
        "doi:10.1109/ISBI.2009.5193098",
        "https://github.com/luispedro/Coelho2009_ISBI_NuclearSegmentation",
        "ecf814dac7f3934345feb83a2b334a3ce659f16b8764d0349ccbd46958b6c72a",
        "one grey channel, shrunk by half, specks dropped",
    ),
    KnownSet(
        "TNBC",
        "H&E, breast cancer of 11 patients, 40x",
        "CC-BY-4.0",
        'P. Naylor, M. Lae, F. Reyal, T. Walter, "Segmentation of Nuclei in Histopathology Images '
        'by Deep Regression of the Distance Map", IEEE Transactions on Medical Imaging '
        "38(2):448-459 (2019), doi:10.1109/TMI.2018.2865709",
        "https://doi.org/10.5281/zenodo.2579118",
        "6132455118250cafce2b6fea3e0d26986689764284a1bd087a0ef58b662d6768",
        "specks below 12 px dropped",
    ),
    KnownSet(
        "NuInsSeg",
        "H&E, 31 organs of humans and mice, 40x",
        "CC-BY-4.0",
        'A. Mahbod et al., "NuInsSeg: A fully annotated dataset for nuclei instance segmentation '
        'in H&E-stained histological images", Scientific Data 11:295 (2024), '
        "doi:10.1038/s41597-024-03117-2",
        "https://doi.org/10.5281/zenodo.10518968",
        "ce201289d41fdc529ba1a5ef1c8da7e0b1b593b5a83140241ff2c9cd17e8342e",
        "270 of 665 images, nuclei recovered from the foreground by a watershed, most images "
        "shrunk by half",
    ),
    KnownSet(
        "DeepLIIF",
        "immunohistochemistry (haematoxylin and DAB) with immunofluorescence of the same fields",
        "CC-BY-4.0",
        'P. Ghahremani et al., "Deep learning-inferred multiplex immunofluorescence for '
        'immunohistochemical image quantification", Nature Machine Intelligence 4:401-412 '
        "(2022), doi:10.1038/s42256-022-00471-x",
        "https://doi.org/10.5281/zenodo.4751737",
        "fb2a68dc7b07385bb6e93e003ec7c0b6a86644046916db8b892d7f89ba1b4ae2",
        "the sample of the authors' code; nuclei are the classes' regions, grown by 3 px",
    ),
    KnownSet(
        "NuCLS",
        "H&E, breast cancer; outlines of some nuclei, boxes of the others",
        "CC0-1.0",
        'M. Amgad et al., "NuCLS: A scalable crowdsourcing approach and dataset for nucleus '
        'classification and segmentation in breast cancer", GigaScience 11 (2022), '
        "doi:10.1093/gigascience/giac037",
        "https://sites.google.com/view/nucls",
    ),
    KnownSet(
        "MoNuSeg",
        "H&E, several organs, 40x",
        "CC-BY-NC-SA-4.0",
        'N. Kumar et al., "A dataset and a technique for generalized nuclear segmentation for '
        'computational pathology", IEEE Transactions on Medical Imaging 36(7):1550-1560 (2017)',
        "https://monuseg.grand-challenge.org",
    ),
    KnownSet(
        "Lizard",
        "H&E, colon, 20x, six classes",
        "CC-BY-NC-SA-4.0",
        'S. Graham et al., "Lizard: A large-scale dataset for colonic nuclear instance '
        'segmentation and classification", ICCV Workshops (2021)',
        "https://warwick.ac.uk/lizard-dataset",
    ),
)


def recognised(samples: Iterable[Sample]) -> KnownSet | None:
    """The public data set that these images and masks are, all of those of one data set."""
    found = fingerprint(list(samples))
    return next((known for known in CATALOG if known.fingerprint == found), None)

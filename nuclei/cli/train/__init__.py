"""`nuclei train`: train a model and register it."""

import typer

from nuclei.cli.train import ensembles, mask_rcnn, sam, stardist, train_all, unet, yolov8

app = typer.Typer(
    help="Train a model on your images, tracked and registered in MLflow.",
    no_args_is_help=True,
)
app.command(epilog=unet.EPILOG)(unet.unet)
app.command("mask_rcnn", epilog=mask_rcnn.EPILOG)(mask_rcnn.mask_rcnn)
app.command("unet_linknet", epilog=ensembles.UNET_LINKNET_EPILOG)(ensembles.unet_linknet)
app.command(epilog=stardist.EPILOG)(stardist.stardist)
app.command(epilog=yolov8.EPILOG)(yolov8.yolov8)
app.command(epilog=ensembles.CONSENSUS_EPILOG)(ensembles.consensus)
app.command(epilog=sam.EPILOG)(sam.sam)
app.command("all", epilog=train_all.EPILOG)(train_all.train_all)

"""What the commands on registered models share: how the model and its registry are named."""

from typing import Annotated

import typer

NameArgument = Annotated[
    str, typer.Argument(help="Registered model, or its family: nuclei-unet, unet.")
]
TrackingUriOption = Annotated[
    str | None,
    typer.Option(help="MLflow registry [MLFLOW_TRACKING_URI, or ~/.nuclei].", show_default=False),
]
WaitOption = Annotated[
    bool, typer.Option("--wait", help="Follow until every gateway is answered by it.")
]
WhyOption = Annotated[str, typer.Option(help="Reason, for the audit trail.", show_default=False)]

"""`nuclei deploy`: the service on Kubernetes, installed, compared, watched and explained."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from nuclei.cli.registry import NameArgument, TrackingUriOption, WhyOption
from nuclei.console import messages, output, print_error, print_warning
from nuclei.errors import InvalidOption, NucleiError
from nuclei.registry import REGISTERED_PREFIX, default_tracking_uri

if TYPE_CHECKING:
    from serving.cluster.api import Cluster
    from serving.cluster.objects import Object
    from serving.cluster.status import Status
    from serving.promotion.state import ModelState

NAMESPACE = "nuclei"
# Of `status`, where something is wrong: scripts and cron jobs look at it.
EXIT_WRONG = 6

app = typer.Typer(help="Run the service on Kubernetes.", no_args_is_help=True)

RENDER_EPILOG = """
**Examples**

nuclei deploy render cpu

nuclei deploy render production --values site.yaml > production.yaml
"""

APPLY_EPILOG = """
**Examples**

nuclei deploy apply gpu --values site.yaml

Before: nuclei deploy diff gpu --values site.yaml.  Afterwards: nuclei deploy status
"""

PROMOTE_EPILOG = """
**Examples**

kubectl -n nuclei port-forward svc/mlflow 5000 &

nuclei deploy promote unet 5 --wait --timeout 600 --tracking-uri http://localhost:5000
"""

STATUS_EPILOG = """
**Examples**

nuclei deploy status --tracking-uri http://localhost:5000

nuclei deploy status || echo "something is wrong"
"""

LOGS_EPILOG = """
**Examples**

nuclei deploy logs triton --since 15

nuclei deploy logs gateway --previous        (why did it end?)
"""

BUNDLE_EPILOG = """
**Examples**

nuclei deploy bundle support.tar.gz
"""

OverlayArgument = Annotated[
    str, typer.Argument(help="cpu, gpu, production, or a folder with a kustomization.yaml.")
]
ValuesOption = Annotated[
    Path | None,
    typer.Option(
        "--values",
        help="YAML file with images, replicas and settings of your site.",
        show_default=False,
    ),
]
ContextOption = Annotated[
    str | None,
    typer.Option(help="Context of the kubeconfig [the one in use].", show_default=False),
]
NamespaceOption = Annotated[str, typer.Option(help="Namespace of the deployment.")]
ForceOption = Annotated[
    bool, typer.Option("--force-conflicts", help="Also take over fields that others set.")
]


@app.command(epilog=RENDER_EPILOG)
def render(overlay: OverlayArgument, values: ValuesOption = None) -> None:
    """Print the objects of an overlay with the values of your site; asks no cluster."""
    from serving.cluster.rendering import as_yaml

    typer.echo(as_yaml(_rendered(overlay, values)), nl=False)


@app.command(epilog=APPLY_EPILOG)
def diff(
    overlay: OverlayArgument,
    values: ValuesOption = None,
    context: ContextOption = None,
    force_conflicts: ForceOption = False,
) -> None:
    """Print what `apply` would change, as the cluster itself works it out; changes nothing."""
    from serving.cluster.api import Cluster
    from serving.cluster.changes import differences

    items = _rendered(overlay, values)
    changed = list(filter(None, differences(Cluster(context), items, force_conflicts)))
    for text in changed:
        typer.echo(text, nl=False)
    messages().print(f"{len(changed)} of {len(items)} objects would change")


@app.command(epilog=APPLY_EPILOG)
def apply(
    overlay: OverlayArgument,
    values: ValuesOption = None,
    context: ContextOption = None,
    force_conflicts: ForceOption = False,
) -> None:
    """Install or upgrade: all of the objects, or none of them.

    The cluster is first asked for all that they need (CRDs, secrets, GPUs, the registry, rights)
    and whether it would take each of them.
    """
    from serving.cluster.api import Cluster
    from serving.cluster.changes import apply as apply_all
    from serving.cluster.objects import named

    items = _rendered(overlay, values)
    for item, outcome in apply_all(Cluster(context), items, force_conflicts):
        output().print(f"{named(item)} {outcome}", soft_wrap=True)
    messages().print("applied; follow it with `nuclei deploy status`")


@app.command(epilog=STATUS_EPILOG)
def status(
    namespace: NamespaceOption = NAMESPACE,
    context: ContextOption = None,
    tracking_uri: TrackingUriOption = None,
) -> None:
    """Show pods, the versions that each serves, autoscalers, certificates, and what is wrong.

    Exit code 6 when something is wrong. The registry says which versions pods serve.
    """
    from serving.cluster.api import Cluster

    found, unknown = _status(Cluster(context), namespace, tracking_uri)
    if found.pods:
        output().print(_pods(found))
    for fact in found.facts:
        output().print(fact, soft_wrap=True)
    if unknown:
        print_warning(unknown)
    for problem in found.problems:
        print_error(problem)
    if found.problems:
        raise typer.Exit(EXIT_WRONG)
    output().print("nothing is wrong")


@app.command(epilog=PROMOTE_EPILOG)
def promote(
    name: NameArgument,
    version: Annotated[int, typer.Argument(min=1, help="Version of the model.")],
    wait: Annotated[
        bool,
        typer.Option(
            "--wait", help="Until every Triton pod serves it; else the champion before comes back."
        ),
    ] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Longest wait, seconds.")] = 600.0,
    why: WhyOption = "",
    namespace: NamespaceOption = NAMESPACE,
    context: ContextOption = None,
    tracking_uri: TrackingUriOption = None,
) -> None:
    """Let a model version answer in every pod of a cluster, or in none.

    Like `nuclei promote`, but it is the pods of the cluster that are waited for, and the alias goes
    back when one of them cannot serve the version in time.
    """
    from serving.cluster import promotion
    from serving.cluster.api import Cluster
    from serving.registry import Registry

    cluster, registry = Cluster(context), Registry(tracking_uri or default_tracking_uri())
    promotion.promote(cluster, namespace, registry, name, version, why)
    output().print(f"{name} {version}: it is the champion", soft_wrap=True)
    if not wait:
        return
    try:
        for doing in promotion.follow(cluster, namespace, registry, name, version, timeout):
            messages().print(doing, soft_wrap=True)
    except NucleiError as error:
        raise promotion.take_back(registry, name, version, error) from error
    output().print(f"{name} {version} answers in every pod", soft_wrap=True)


@app.command(epilog=LOGS_EPILOG)
def logs(
    component: Annotated[
        str | None,
        typer.Argument(help="gateway, triton, mlflow, probe, migration or training [all]."),
    ] = None,
    since: Annotated[
        float | None, typer.Option(min=0.1, help="Only the last minutes.", show_default=False)
    ] = None,
    lines: Annotated[int, typer.Option(min=1, help="Last lines of each container.")] = 200,
    previous: Annotated[
        bool, typer.Option("--previous", help="Of the run before the last restart.")
    ] = False,
    namespace: NamespaceOption = NAMESPACE,
    context: ContextOption = None,
) -> None:
    """Print what the containers wrote, each line after its pod and container."""
    from serving.cluster.api import Cluster
    from serving.cluster.logs import read_logs

    since_s = None if since is None else max(1, round(60 * since))
    found = False
    for source, text in read_logs(Cluster(context), namespace, component, since_s, lines, previous):
        found = True
        for line in text.splitlines():
            output().print(f"{source}: {line}", soft_wrap=True)
    if not found:
        raise InvalidOption(
            f"namespace {namespace} has no log of {component or 'this service'}; see "
            "`nuclei deploy status`"
        )


@app.command(epilog=BUNDLE_EPILOG)
def bundle(
    archive: Annotated[Path, typer.Argument(help="The archive to write, .tar.gz.")],
    namespace: NamespaceOption = NAMESPACE,
    context: ContextOption = None,
    tracking_uri: TrackingUriOption = None,
) -> None:
    """Write a support archive: status, objects, events and logs, without secrets.

    Secrets are not read into it; what looks like a password, token or key in the rest is left out.
    """
    from serving.cluster.api import Cluster
    from serving.cluster.bundle import write_bundle

    if archive.exists():
        raise InvalidOption(f"{archive} exists; name another file")
    cluster = Cluster(context)
    found, unknown = _status(cluster, namespace, tracking_uri)
    pods = (f"{pod.component} {pod.name}: {pod.state}" for pod in found.pods)
    text = "".join(f"{line}\n" for line in (*pods, *found.facts, unknown, *found.problems) if line)
    for sentence in write_bundle(cluster, namespace, archive, text, datetime.now(UTC)):
        print_warning(f"not in the archive: {sentence}")
    output().print(f"wrote {archive}", soft_wrap=True)


def _rendered(overlay: str, values: Path | None) -> "list[Object]":
    from serving.cluster.rendering import find_overlay
    from serving.cluster.rendering import render as render_overlay
    from serving.cluster.values import Values, read_values

    given = Values() if values is None else read_values(values)
    return render_overlay(find_overlay(overlay), given)


def _status(
    cluster: "Cluster", namespace: str, tracking_uri: str | None
) -> "tuple[Status, str | None]":
    """The status, and why the versions are not known where the registry does not answer."""
    from serving.cluster.status import read_status

    states, unknown = _states(tracking_uri or default_tracking_uri())
    return read_status(cluster, namespace, states, datetime.now(UTC)), unknown


def _states(tracking_uri: str) -> "tuple[list[ModelState], str | None]":
    from serving.promotion.lock import is_lock
    from serving.promotion.state import read_state
    from serving.registry import Registry

    try:
        registry = Registry(tracking_uri)
        names = [name for name in registry.names(REGISTERED_PREFIX) if not is_lock(name)]
        return [read_state(registry, name) for name in sorted(names)], None
    except NucleiError as error:
        return [], f"which versions pods serve is unknown: {error}"


def _pods(found: "Status") -> Table:
    table = Table("pod", "component", "state", "restarts", "serves")
    for pod in found.pods:
        serves = ", ".join(f"{model} {version}" for model, version in (pod.serves or {}).items())
        table.add_row(pod.name, pod.component, pod.state, str(pod.restarts), serves)
    return table

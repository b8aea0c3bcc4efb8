"""`nuclei rollback`: let the version before answer again."""

from nuclei.cli.registry import NameArgument, TrackingUriOption, WaitOption, WhyOption
from nuclei.console import messages, output
from nuclei.registry import default_tracking_uri

EPILOG = """
**Examples**

nuclei rollback unet --wait --why "merges touching nuclei"

nuclei rollback unet             (once more: the version before that)

nuclei models                    (who changed what, and what answers now)
"""


def rollback(
    name: NameArgument,
    wait: WaitOption = False,
    why: WhyOption = "",
    tracking_uri: TrackingUriOption = None,
) -> None:
    """Let the champion before answer again, or end the rollout that is under way.

    The version before stays loaded, so this takes seconds. Each call goes one version further back
    along the audit trail; versions that could not be served are passed over.
    """
    from serving.promotion import changes
    from serving.promotion.waiting import follow
    from serving.registry import Registry

    registry = Registry(tracking_uri or default_tracking_uri())
    taken_back, champion = changes.rollback(registry, name, why)
    output().print(
        f"{name} {taken_back} is taken back; the champion is {champion or 'none'}", soft_wrap=True
    )
    if wait and champion is not None:
        for sentence in follow(registry, name, champion):
            messages().print(sentence, soft_wrap=True)
        output().print(f"{name} {champion} answers", soft_wrap=True)

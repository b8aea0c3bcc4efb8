"""The process of sync that `nuclei serve` starts; with `prepare`, it only makes the repository."""

import sys

from nuclei.console import print_error
from nuclei.errors import NucleiError
from nuclei.process.first import end_by_sigterm
from serving.logs import write_logs
from serving.promotion.process import follow, prepare_repository
from serving.promotion.settings import SyncSettings
from serving.settings import read_settings


def main() -> None:
    """An error of ours becomes a sentence and its exit code."""
    end_by_sigterm()
    try:
        settings = read_settings(SyncSettings)
        write_logs(settings)
        if sys.argv[1:] == ["prepare"]:
            prepare_repository(settings)
        else:
            follow(settings)
    except NucleiError as error:
        print_error(error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

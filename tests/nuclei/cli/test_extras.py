import pytest

from nuclei.cli.extras import named_extras
from nuclei.errors import MissingPrerequisite


def test_the_module_whose_import_failed_names_the_extra() -> None:
    code = compile("import nosuch_package", "module", "exec")
    extras = {
        "nuclei.a": "local",
        "serving.b": "serve",
        "serving.cluster.api": "cluster",
        "training.c": "train",
    }
    for module, extra in extras.items():
        with (
            pytest.raises(MissingPrerequisite, match=rf"nosuch_package.*\[{extra}\]"),
            named_extras(),
        ):
            exec(code, {"__name__": module})


def test_the_extra_that_contains_the_other_is_named() -> None:
    inner = compile("import nosuch_package", "inner", "exec")
    outer = compile("exec(inner, {'__name__': 'nuclei.a'})", "outer", "exec")
    with pytest.raises(MissingPrerequisite, match=r"\[serve\]"), named_extras():
        exec(outer, {"__name__": "serving.b", "inner": inner})


def test_a_module_of_ours_that_is_missing_is_a_fault() -> None:
    with pytest.raises(ModuleNotFoundError), named_extras():
        exec("import nuclei.nosuch", {"__name__": "nuclei.a"})


def test_an_import_elsewhere_is_left_alone() -> None:
    with pytest.raises(ModuleNotFoundError), named_extras():
        exec("import nosuch_package", {"__name__": "elsewhere"})

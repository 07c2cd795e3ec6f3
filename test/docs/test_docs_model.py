"""docs/model.md against the code: every number and every test it names."""

import math
import re

from places import ROOT, TEST

from pi05_progress.models.config import CONFIGS, named_config
from pi05_progress.models.lora import count_parameters, is_adapter
from pi05_progress.models.parameters import abstract_model, parameter_shapes

PAGE = (ROOT / "docs/model.md").read_text()


def rows(header):
    """Cells of the rows of the table whose head begins with ``header``."""
    lines = PAGE[PAGE.index(f"| {header} |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_configuration_is_documented_with_its_sizes():
    documented = {cells[0].strip("`"): cells[1:] for cells in rows("name")}
    assert set(documented) == set(CONFIGS)
    for name, (widths, vision, image, horizon, parameters, head, compute) in documented.items():
        config = named_config(name)
        counts = count_parameters(abstract_model(config), config, "head")
        assert (f"{counts.total - counts.trained:,}", f"{counts.trained:,}") == (parameters, head)
        assert (str(config.image_size[0]), str(config.action_horizon)) == (image, horizon)
        assert config.compute_dtype == compute
        if "the same" not in widths:
            trunk = config.paligemma
            assert widths == f"{trunk.width} / {config.expert.width}, {trunk.depth}"
            assert vision == f"{config.siglip.width} wide, {config.siglip.depth} layers"


def test_numbers_of_adapters_are_those_of_the_configuration():
    config = named_config("pi05_lora")
    counts = count_parameters(abstract_model(config), config, "adapters")
    adapters = sum(math.prod(v.shape) for path, v in parameter_shapes(config).items() if is_adapter(path))
    table = " ".join(cell for cells in rows("what") for cell in cells)
    assert f"{adapters:,}" in table
    assert f"{counts.total - counts.trained:,}" in table


def test_every_trap_names_a_test_that_there_is():
    named = [cells[1].strip("`").split("::") for cells in rows("openpi does")]
    assert len(named) > 10
    for file, test in named:
        assert re.search(rf"^def {test}\(", next(TEST.rglob(file)).read_text(), re.MULTILINE), f"{file}::{test}"


def test_every_file_named_is_there():
    for path in set(re.findall(r"`((?:models/)?\w+\.py)`", PAGE)) | set(re.findall(r"benchmarks/\w+\.py", PAGE)):
        assert list(ROOT.glob(path)) or list((ROOT / "pi05_progress").rglob(path)), path

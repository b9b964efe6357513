"""The values in the guide on operations are valid values of the chart."""

import re
from pathlib import Path

import pytest
import yaml

from tests.chart.conftest import Render, of_kind, only

pytestmark = pytest.mark.slow  # the first use builds Helm

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "operations.md"


def test_the_guides_values_make_two_operators_that_share_a_lease(render: Render) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert len(blocks) == 1
    objects = render(**yaml.safe_load(blocks[0]))
    deployment = only(objects, "Deployment")["spec"]
    assert (deployment["replicas"], deployment["template"]["spec"]["priorityClassName"]) == (
        2,
        "system-cluster-critical",
    )
    assert of_kind(objects, "PodDisruptionBudget")

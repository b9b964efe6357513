"""The values in the guide on operations are valid values of the chart."""

import re
from pathlib import Path

import pytest
import yaml

from tests.chart.conftest import Render, of_kind, only

pytestmark = pytest.mark.slow  # the first use builds Helm

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "monitoring.md"


def test_the_guides_values_make_two_operators_that_share_a_lease(render: Render) -> None:
    (block,) = re.findall(r"```yaml\n# values.yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    objects = render(**yaml.safe_load(block))
    deployment = only(objects, "Deployment")["spec"]
    assert (deployment["replicas"], deployment["template"]["spec"]["priorityClassName"]) == (
        2,
        "system-cluster-critical",
    )
    assert of_kind(objects, "PodDisruptionBudget")

"""The codec of each layout, fitted once a module."""

import pytest

from dtufc.coding.feature_codec import FeatureCodec
from tests.coding.contract import SAMPLES, fitted


@pytest.fixture(scope="module", params=sorted(SAMPLES))
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def codec(layout: str) -> FeatureCodec:
    return fitted(layout)

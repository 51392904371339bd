"""What a profile computes once, and what waits while a codec loads."""

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import pytest

from dtufc.coding.arrays import Array
from dtufc.coding.feature_codec import FeatureCodec
from dtufc.models.profile import Profile, load_profile
from dtufc.serving.describe import profile_info


@dataclass(frozen=True, kw_only=True)
class SlowDisk(Profile):
    """A profile whose arrays of `levels` arrive when they are let."""

    asked: list[str] = field(default_factory=list)
    begun: threading.Event = field(default_factory=threading.Event)
    arrived: threading.Event = field(default_factory=threading.Event)

    def of_codec(self, codec: str) -> dict[str, Array]:
        self.asked.append(codec)
        if codec == "levels":
            self.begun.set()
            assert self.arrived.wait(30)
        return super().of_codec(codec)


@pytest.fixture(scope="module")
def profile() -> Profile:
    return load_profile("smollm2-135m")


@pytest.fixture
def slow(profile: Profile) -> SlowDisk:
    return SlowDisk(spec=profile.spec, split=profile.split, calibration=profile.calibration)


def test_a_slow_codec_is_loaded_once_and_holds_up_no_other(slow: SlowDisk) -> None:
    codec = FeatureCodec(slow)
    with ThreadPoolExecutor(4) as threads:
        loads = [threads.submit(codec.prepare, "levels") for _ in range(3)]
        assert slow.begun.wait(30)
        other = threads.submit(codec.prepare, "klt")
        done, _ = wait([other], timeout=20)
        slow.arrived.set()
        assert done, "klt waited for levels"
        for load in loads:
            load.result(30)
    assert sorted(slow.asked) == ["klt", "levels"]
    assert codec.is_loaded("levels")
    assert codec.is_loaded("klt")


def test_a_profile_is_hashed_once_and_its_codecs_are_found_once(profile: Profile) -> None:
    codec = FeatureCodec(profile)
    assert profile.digest is profile.digest
    assert codec.codecs is codec.codecs
    assert profile_info(profile, codec, 30).digest == profile.digest

from dataclasses import fields

import pytest

from pipeline.media.guard import MediaLimits


@pytest.mark.parametrize("name", [field.name for field in fields(MediaLimits)])
def test_a_limit_below_one_is_refused(name):
    with pytest.raises(ValueError, match=name):
        MediaLimits(**{name: 0})

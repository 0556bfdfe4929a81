# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Order statistics are NumPy's to the last bit: bounds of the map are multiples of them."""

import numpy as np
import pytest

from vggt_ros.mapping.medians import median, medians, quantile


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 40, 1001, 3000])
def test_they_are_those_of_numpy(count: int, dtype: type):
    random = np.random.default_rng(count)
    for values in (random.standard_normal(count), random.integers(0, 5, count)):
        values = values.astype(dtype)
        assert median(values) == np.median(values)
        for share in (0.0, 0.2, 0.5, 0.83):
            assert quantile(values, share) == np.quantile(values, share)
    image = random.standard_normal((count, 3))
    assert median(image) == np.median(image)
    np.testing.assert_array_equal(medians(image.T), np.median(image, axis=0))

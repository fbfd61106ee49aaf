import pytest

from flm_jax.errors import InputError
from flm_jax.runtime.devices import check_batch_size


def test_a_batch_that_the_devices_do_not_divide_is_an_error():
    check_batch_size(64, 8)
    with pytest.raises(InputError, match="batch_size=60 does not divide over 8 devices.*=64 does"):
        check_batch_size(60, 8)

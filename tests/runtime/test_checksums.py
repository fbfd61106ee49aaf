import jax
import jax.numpy as jnp
import numpy as np

from flm_jax.runtime.checksums import checksum, describe, differences, leaves, shape


def test_leaves_have_the_names_of_their_places():
    tree = {"params": {"conv1": {"kernel": 1}}, "opt_state": (2, [3])}
    assert leaves(tree) == {"params/conv1/kernel": 1, "opt_state/0": 2, "opt_state/1/0": 3}


def test_an_array_is_recognised_by_dtype_shape_and_values():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    known = describe(array)
    assert known == describe(jnp.asarray(array))
    flipped = array.copy()
    flipped.view(np.uint32)[1, 2] ^= 1
    for other in (flipped, array.view(np.int32), array.reshape(3, 2)):
        assert describe(other) != known
    assert shape(array) == shape(jax.ShapeDtypeStruct((2, 3), jnp.float32)) == known[:2]


def test_a_description_is_recognised_by_its_values_alone():
    assert checksum({"a": 1, "b": [2.5]}) == checksum({"b": [2.5], "a": 1})
    assert checksum({"a": 1, "b": [2.5]}) != checksum({"a": 1, "b": [2.25]})


def test_differences_name_ten_at_most_that_differ_are_missing_or_left_over():
    one, two = ["float32", [1]], ["float32", [2]]
    found = {"same": [*one, 7], "other": [*two, 7], "left over": [*one, 7]}
    assert differences(found, {"same": one, "other": one, "missing": two}).splitlines() == [
        "  other: ['float32', [2]] -> ['float32', [1]]",
        "  missing: (none) -> ['float32', [2]]",
        "  left over: ['float32', [1]] -> (none)",
    ]
    assert differences(found, {name: entry[:2] for name, entry in found.items()}) == ""
    listed = differences({}, {str(i): ["float32", [i]] for i in range(12)}).splitlines()
    assert len(listed) == 11
    assert listed[-1] == "  and 2 more"

import warnings

import numpy as np
import pytest
from support.faces import line_of, make_fields, write_list

from flm_jax.data import wflw
from flm_jax.errors import InputError


def test_a_written_line_reads_back(tmp_path):
    fields = make_fields()
    write_list(tmp_path, [line_of(fields), line_of(fields)])
    first, second = wflw.read_list(tmp_path, wflw.TRAIN_LIST)
    assert (first.line, second.line) == (1, 2)
    assert first.image_path == str(tmp_path / wflw.IMAGES / "a/face.jpg")
    np.testing.assert_allclose(
        first.landmarks.ravel(), np.array(fields[:196], float), rtol=0, atol=1e-5
    )
    np.testing.assert_array_equal(first.box, [10, 5, 90, 95])
    np.testing.assert_array_equal(first.attributes, [True, False, False, True, False, True])


def broken(index, *values):
    """A line with other values from a field on; of none, that field is missing."""
    fields = make_fields()
    fields[index : index + max(1, len(values))] = values
    return line_of(fields)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (broken(206), "206 fields, expected 207"),
        (
            line_of(["1", *make_fields()]),
            "attributes are 95 1 0 0 1 0, expected six of 0 or 1; the line has 208",
        ),
        (line_of([*make_fields()[:136], "a/face.jpg"]), "137 fields (68 points, or 63 with"),
        (line_of([*make_fields()[:16], *make_fields()]), "223 fields (111 points, or 106 with"),
        (broken(0, "-1", "-1"), "point 0 is -1 -1, which marks a point without a label"),
        (line_of(make_fields()) + 2**16 * b"a", "a line of more than 65536 characters"),
        (b"", "0 fields, expected 207"),
        (broken(3, "nan"), "field 4 is 'nan', expected a finite number"),
        (broken(195, "1e39"), "field 196 is '1e39', expected a finite number"),
        (broken(7, "1,5"), "field 8 is '1,5', expected a finite number"),
        (broken(198, "10"), "degenerate rectangle: xmin ymin xmax ymax = 10 5 10 95"),
        (broken(199, "4"), "degenerate rectangle: xmin ymin xmax ymax = 10 5 90 4"),
        (broken(202, "2"), "attributes are 1 0 2 1 0 1, expected six of 0 or 1"),
        (broken(206, "a/other.jpg"), "a/other.jpg: no such image under"),
        (b"\xff\xfe", "not UTF-8 or UTF-16 text"),
        (broken(144, *make_fields()[120:122]), "points 60 and 72 coincide"),
    ],
)
def test_a_wrong_line_is_named_with_what_is_wrong(tmp_path, line, message):
    path = write_list(tmp_path, [line_of(make_fields()), line, line_of(make_fields())])
    with pytest.raises(wflw.ListError) as error:
        wflw.read_list(tmp_path, wflw.TRAIN_LIST)
    assert str(error.value).startswith(f"{path}:2: ")
    assert message in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_list_may_have_a_byte_order_mark_and_names_with_spaces(tmp_path, encoding):
    path = write_list(tmp_path, [], images=["a/my face é.jpg"])
    lines = 2 * [line_of(make_fields("a/my face é.jpg")).decode()]
    path.write_bytes("\r\n".join(lines).encode(encoding))
    records = wflw.read_list(tmp_path, wflw.TRAIN_LIST)
    assert [record.image_name for record in records] == 2 * ["a/my face é.jpg"]


def test_a_missing_root_says_where_wflw_comes_from(tmp_path):
    with pytest.raises(InputError, match="no such folder") as error:
        wflw.read_list(tmp_path / "nowhere", wflw.TRAIN_LIST)
    for part in (str(tmp_path / "nowhere"), "wywu.github.io", wflw.IMAGES, "configs/demo.py"):
        assert part in str(error.value)


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(InputError, match="list_98pt_rect_attr_test.txt: no such list"):
        wflw.read_list(tmp_path, wflw.TEST_LIST)


def test_an_empty_list_is_refused(tmp_path):
    path = write_list(tmp_path, [])
    with pytest.raises(wflw.ListError, match=f"{path}:1: the list is empty"):
        wflw.read_list(tmp_path, wflw.TRAIN_LIST)
    subset = tmp_path / wflw.SUBSET_LIST.format(subset="blur")
    subset.parent.mkdir(parents=True)
    subset.write_bytes(b"")
    with pytest.raises(wflw.ListError, match=f"{subset}:1: the list is empty"):
        wflw.read_subset(tmp_path, "blur", [])
    write_list(tmp_path, [b"", line_of(make_fields())])
    with pytest.raises(wflw.ListError, match=f"{path}:1: 0 fields"):
        wflw.read_list(tmp_path, wflw.TRAIN_LIST)


@pytest.mark.parametrize("subset", wflw.SUBSETS)
def test_a_subset_list_names_faces_of_the_test_list(tmp_path, test_records, subset):
    chosen = test_records[9:2:-2]
    path = tmp_path / wflw.SUBSET_LIST.format(subset=subset)
    path.parent.mkdir(parents=True)
    fields = [[*map(str, r.landmarks.ravel().tolist()), r.image_name] for r in chosen]
    path.write_text("".join(" ".join(each) + "\n" for each in fields))
    found = wflw.read_subset(tmp_path, subset, test_records)
    assert [record.line for record in found] == [record.line for record in chosen]
    assert [record.attributes.tolist() for record in found] == [
        record.attributes.tolist() for record in chosen
    ]


def test_a_subset_face_beyond_the_test_list_is_an_error(faces_root, test_records):
    chosen = next(i for i in range(6) if any(r.attributes[i] for r in test_records))
    others = [record for record in test_records if not record.attributes[chosen]]
    with pytest.raises(wflw.ListError, match="this face is not in the test list"):
        wflw.read_subset(faces_root, wflw.SUBSETS[chosen], others)


def test_split_keeps_every_image_on_one_side(train_records):
    training, validation = wflw.split_by_image(train_records, 0.2, seed=1)
    names = [{record.image_name for record in side} for side in (training, validation)]
    assert not names[0] & names[1]
    assert len(training) + len(validation) == len(train_records)
    assert len(names[1]) == round(0.2 * len(names[0] | names[1]))
    # The property is put to the test only if an image holds several faces.
    assert len(names[0] | names[1]) < len(train_records)


def test_a_split_depends_on_the_seed_alone(train_records):
    def lines(seed):
        return [record.line for record in wflw.split_by_image(train_records, 0.2, seed)[1]]

    assert lines(1) == lines(1) != lines(2)


def test_a_split_without_validation_faces_is_refused(train_records):
    with pytest.raises(InputError, match="validation_fraction=0.0"):
        wflw.split_by_image(train_records, 0.0, seed=0)


def test_named_lines_are_dropped_and_unknown_ones_refused(train_records):
    kept = wflw.drop_lines(train_records, (2, 5))
    assert {record.line for record in train_records} - {record.line for record in kept} == {2, 5}
    with pytest.raises(InputError, match=r"no line \[1000\]"):
        wflw.drop_lines(train_records, (1000,))


def test_labels_far_outside_their_rectangle_are_warned_of_once(tmp_path):
    far = broken(0, "400")
    write_list(tmp_path, [line_of(make_fields()), far, far])
    records = wflw.read_list(tmp_path, wflw.TRAIN_LIST)
    with pytest.warns(UserWarning, match=r"on lines \[2, 3\]") as warned:
        assert len(wflw.drop_lines(records, ())) == 3
    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(wflw.drop_lines(records, (2, 3))) == 1

"""The phantom: pure, exact about its lesions, fair in everything else."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xaibench.datasets._phantom.anatomy import lung_detail
from xaibench.datasets._phantom.draw import attenuation
from xaibench.datasets.phantom import CLASSES, _scene, marker_rates, phantom, render
from xaibench.errors import UsageError

LESIONS = CLASSES[1:]


def build(classes=CLASSES, size=64, **options):
    return phantom(
        classes=classes, input_size=size, data_root=None, options={"train": 40, "val": 8, "test": 16, **options}
    )


@pytest.fixture(scope="module")
def boxes():
    """400 boxes of each lesion, as shares of the image."""
    train = build(train=1600).train
    found = {name: [] for name in LESIONS}
    for i in range(len(train)):
        for k, region in train.regions(i).items():
            found[CLASSES[k]].append(region.boxes[0] / train.frame.width)
    return {name: np.array(rows) for name, rows in found.items()}


# one image


def test_same_arguments_give_the_same_image_in_any_order():
    keys = [(0, 3, "Effusion"), (0, 4, "Pneumothorax"), (7, 3, "Cardiomegaly"), (0, 5, "No Finding")]
    first = {key: render(key[0], key[1], 64, finding=key[2]) for key in keys}
    for key in reversed(keys):
        again = render(key[0], key[1], 64, finding=key[2])
        assert np.array_equal(again.image, first[key].image)
        assert (again.box is None) == (first[key].box is None)
        assert again.box is None or np.array_equal(again.box, first[key].box)


def test_another_seed_index_or_patient_gives_another_image():
    base = render(0, 3, 64, finding="No Finding").image
    for other in (render(1, 3, 64, finding="No Finding"), render(0, 4, 64, finding="No Finding")):
        assert np.abs(other.image - base).mean() > 0.02
    assert np.abs(render(0, 3, 64, finding="No Finding", patient=9).image - base).mean() > 0.01


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    index=st.integers(0, 10**8),
    size=st.integers(32, 160),
    finding=st.sampled_from(CLASSES),
    marker=st.booleans(),
)
def test_any_image_is_well_formed(seed, index, size, finding, marker):
    drawn = render(seed, index, size, finding=finding, marker=marker)
    assert drawn.image.shape == (1, size, size)
    assert drawn.image.dtype == np.float32
    assert np.isfinite(drawn.image).all()
    assert drawn.image.min() >= 0
    assert drawn.image.max() <= 1
    levels = drawn.image * np.float32(255)
    assert np.abs(levels - np.rint(levels)).max() < 1e-3
    assert drawn.image.std() > 0.08
    assert (drawn.box is None) == (drawn.mask is None) == (finding == "No Finding")
    if drawn.box is not None:
        x0, y0, x1, y1 = drawn.box
        assert 0 <= x0 < x1 <= size
        assert 0 <= y0 < y1 <= size
        rows, columns = np.nonzero(drawn.mask)
        assert len(rows) > 0
        assert x0 <= columns.min() + 0.5
        assert columns.max() + 0.5 <= x1
        assert y0 <= rows.min() + 0.5
        assert rows.max() + 0.5 <= y1
    assert (drawn.marker is not None) == marker


def test_boxes_are_tight():
    for index in range(30):
        for finding in LESIONS:
            drawn = render(0, index, 128, finding=finding)
            rows, columns = np.nonzero(drawn.mask)
            edges = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            # corners of a thin crescent reach between the pixels' centres
            assert np.abs(edges - drawn.box).max() < 2.5, (finding, index)
            assert np.abs(edges - drawn.box).mean() < 1.2, (finding, index)


def test_another_size_shows_the_same_anatomy():
    for index in range(12):
        for finding in CLASSES:
            small, large = (render(0, index, size, finding=finding) for size in (64, 128))
            pooled = large.image[0].reshape(64, 2, 64, 2).mean(axis=(1, 3))
            assert np.corrcoef(pooled.ravel(), small.image[0].ravel())[0, 1] > 0.97
            if finding != "No Finding":
                assert np.abs(small.box * 2 - large.box).max() < 1.5
                assert abs(small.mask.mean() - large.mask.mean()) < 0.01


def test_finding_changes_nothing_but_the_lesion():
    for index in range(15):
        normal = render(0, index, 96, finding="No Finding").image[0]
        for finding in ("Pneumothorax", "Effusion"):
            drawn = render(0, index, 96, finding=finding)
            left = drawn.meta["side"] == "left"
            # the other half of the image, but for the middle that a tilted patient crosses
            other = np.s_[:, 64:] if left else np.s_[:, :32]
            assert np.array_equal(drawn.image[0][other], normal[other])


def contrast(finding: str, index: int) -> float:
    drawn, normal = render(0, index, 128, finding=finding), render(0, index, 128, finding="No Finding")
    return float((drawn.image[0] - normal.image[0])[drawn.mask].mean())


def test_pneumothorax_is_darker_and_effusion_whiter_than_the_same_patient_without():
    air = np.array([contrast("Pneumothorax", i) for i in range(40)])
    fluid = np.array([contrast("Effusion", i) for i in range(40)])
    assert (air < 0).mean() >= 0.95
    assert np.median(air) < -0.03
    assert (fluid > 0.1).all()


def test_no_vessels_beyond_the_pleural_line():
    """Patients that differ in their vessels alone look alike in the pneumothorax, and differ in the lung."""
    checked = 0
    for index in range(20):
        scene = _scene(0, index, 128, "Pneumothorax", index)
        one, two = (
            attenuation(
                scene.patient,
                lung_detail(np.random.default_rng(k), scene.patient.hila, scene.patient.root),
                scene.view,
                scene.lesion,
                scene.x,
                scene.y,
            )
            for k in (0, 1)
        )
        beyond = np.abs(one - two)
        deep = scene.region.mask & np.roll(scene.region.mask, 1, 1) & np.roll(scene.region.mask, -1, 1)
        if deep.sum() > 20:
            checked += 1
            assert beyond[deep].max() < 0.02
            assert beyond[~scene.region.mask].max() > 0.05
    assert checked > 10


def test_cardiothoracic_ratio_separates_cardiomegaly():
    normal = [render(0, i, 32, finding="No Finding").meta["cardiothoracic_ratio"] for i in range(60)]
    large = [render(0, i, 32, finding="Cardiomegaly").meta["cardiothoracic_ratio"] for i in range(60)]
    assert min(normal) >= 0.40
    assert max(normal) <= 0.50
    assert min(large) >= 0.55
    assert max(large) <= 0.70


# many images


@pytest.mark.parametrize(("name", "median"), [("Cardiomegaly", 0.171), ("Effusion", 0.056), ("Pneumothorax", 0.036)])
def test_box_areas_have_nih_medians(boxes, name, median):
    box = boxes[name]
    area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    assert len(area) == 400
    assert np.median(area) == pytest.approx(median, rel=0.15)
    low, high = np.quantile(area, [0.25, 0.75])
    if name != "Cardiomegaly":
        assert 2.5 < high / low < 6


@pytest.mark.parametrize("name", ["Effusion", "Pneumothorax"])
def test_no_constant_point_hits_most_boxes(boxes, name):
    box, at = boxes[name], (np.arange(100) + 0.5) / 100
    inside_x = (at >= box[:, :1]) & (at < box[:, 2:3])
    inside_y = (at >= box[:, 1:2]) & (at < box[:, 3:4])
    assert np.einsum("nx,ny->xy", inside_x, inside_y, dtype=float).max() / len(box) < 0.5
    right = (box[:, 0] + box[:, 2] > 1).mean()
    assert 0.4 < right < 0.6


# splits


def test_classes_are_balanced_interleaved_and_in_the_given_order():
    classes = ("Effusion", "No Finding", "Pneumothorax")
    splits = build(classes, train=60)
    assert splits.train.classes == classes
    assert splits.train.labels.dtype == np.float32
    assert splits.train.labels.sum(axis=0).tolist() == [20, 20, 20]
    assert (splits.train.labels.sum(axis=1) == 1).all()
    sample = splits.train[3]
    assert sample.labels.tolist() == [1, 0, 0]
    assert set(sample.regions) == {0}
    assert splits.train[4].regions == {}
    assert sample.meta["finding"] == "Effusion"
    assert "marker" not in sample.meta


@pytest.mark.parametrize("finding", CLASSES)
def test_lungs_hold_pneumothoraces_and_effusions_and_no_heart(finding):
    for index in range(8):
        drawn = render(0, index, 128, finding=finding)
        assert 0.1 < drawn.lungs.mean() < 0.4
        if drawn.mask is None:
            continue
        share = drawn.lungs[drawn.mask].mean()
        assert share == 0 if finding == "Cardiomegaly" else share > 0.9
        # a finding that does not enlarge the heart leaves the fields where they were
        same = np.array_equal(drawn.lungs, render(0, index, 128, finding="No Finding").lungs)
        assert same == (finding != "Cardiomegaly")


def test_patients_are_disjoint_and_share_their_anatomy():
    splits = build(train=400)
    parts = (splits.train, splits.val, splits.test)
    patients, ids = [set(p.patients) for p in parts], [set(p.ids) for p in parts]
    assert all(len(i) == len(p) for i, p in zip(ids, parts, strict=True))
    assert len(set.union(*patients)) == sum(map(len, patients))
    assert len(set.union(*ids)) == sum(map(len, ids))
    counts = np.unique(np.array(splits.train.patients), return_counts=True)[1]
    assert set(counts) == {1, 2, 3}
    # a patient's images differ, if only in exposure
    pair = next(i for i in range(399) if splits.train.patients[i] == splits.train.patients[i + 1])
    assert not np.array_equal(splits.train[pair].image, splits.train[pair + 1].image)
    normal = build(("No Finding",), train=60).train
    ratio = {}
    for i in range(60):
        ratio.setdefault(normal.patients[i], set()).add(normal[i].meta["cardiothoracic_ratio"])
    assert all(len(values) == 1 for values in ratio.values())
    assert len(set.union(*ratio.values())) == len(ratio)


def test_images_do_not_depend_on_the_size_of_the_splits():
    few, many = build(test=4).test, build(train=80, test=16).test
    assert np.array_equal(few[3].image, many[3].image)
    assert few.fingerprint != many.fingerprint


def test_regions_equal_those_of_the_sample_and_survive_pickling():
    split = pickle.loads(pickle.dumps(build().test))
    for i in range(4):
        alone, drawn = split.regions(i), split[i].regions
        assert alone.keys() == drawn.keys()
        for k in alone:
            assert np.array_equal(alone[k].boxes, drawn[k].boxes)
            assert np.array_equal(alone[k].mask, drawn[k].mask)
            assert alone[k].frame == split.frame
    assert split[-1].id == split.ids[-1]
    with pytest.raises(IndexError):
        split[len(split)]


def test_fingerprints_tell_what_decides_the_images():
    prints = [
        build().train.fingerprint,
        build().test.fingerprint,
        build(seed=1).train.fingerprint,
        build(size=96).train.fingerprint,
        build(CLASSES[::-1]).train.fingerprint,
        build(shortcut=0.0).train.fingerprint,
        build(shortcut=0.5).train.fingerprint,
        build(shortcut=0.5, shortcut_class="Effusion").train.fingerprint,
    ]
    assert len(set(prints)) == len(prints)
    assert build().train.fingerprint == prints[0]
    assert len(prints[0]) == 64


# the shortcut


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.7, 1.0])
def test_marker_has_the_correlation_asked_for(correlation):
    train = build(size=32, train=160, shortcut=correlation, shortcut_class="Effusion").train
    planted = np.array(["marker" in train[i].meta for i in range(len(train))])
    label = train.labels[:, CLASSES.index("Effusion")]
    assert planted.mean() == pytest.approx(0.25, abs=0.015)
    assert np.corrcoef(planted, label)[0, 1] == pytest.approx(correlation, abs=0.03)


@given(correlation=st.floats(0, 1), share=st.floats(0.05, 0.95))
def test_marker_rates_give_phi(correlation, share):
    with_class, without = marker_rates(correlation, share)
    overall = share * with_class + (1 - share) * without
    phi = (with_class - without) * np.sqrt(share * (1 - share)) / np.sqrt(overall * (1 - overall))
    assert phi == pytest.approx(correlation, abs=1e-6)
    assert 0 <= without <= with_class <= 1 + 1e-12


def test_marker_is_bright_known_and_away_from_the_lesion():
    for index in range(40):
        finding = CLASSES[index % 4]
        drawn = render(0, index, 128, finding=finding, marker=True)
        plain = render(0, index, 128, finding=finding)
        changed = np.abs(drawn.image[0] - plain.image[0]) > 0.02
        x0, y0, x1, y1 = drawn.marker.boxes[0]
        rows, columns = np.nonzero(changed)
        assert len(rows) > 0
        assert columns.min() >= x0 - 1
        assert columns.max() < x1 + 1
        assert rows.min() >= y0 - 1
        assert rows.max() < y1 + 1
        assert drawn.image[0][drawn.marker.mask].mean() > 0.75
        if drawn.box is not None:
            bx0, by0, bx1, by1 = drawn.box
            assert x1 <= bx0 or bx1 <= x0 or y1 <= by0 or by1 <= y0
            assert np.array_equal(drawn.mask, plain.mask)


def test_without_the_option_no_marker_is_drawn():
    train = build(size=32).train
    assert not any("marker" in train[i].meta for i in range(len(train)))


# bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trian": 5}, "no option 'trian'. Did you mean 'train'"),
        ({"train": 0}, "train = 0"),
        ({"test": 2.5}, "test = 2.5"),
        ({"val": True}, "val = True"),
        ({"seed": -1}, "seed = -1"),
        ({"shortcut": 1.5}, "shortcut = 1.5"),
        ({"shortcut": "high"}, "shortcut = 'high'"),
        ({"shortcut": 0.5, "shortcut_class": "Efusion"}, "Did you mean 'Effusion'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(UsageError) as caught:
        phantom(classes=CLASSES, input_size=64, data_root=None, options=options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_classes_and_sizes_are_named():
    with pytest.raises(UsageError, match="Did you mean 'Effusion'"):
        build(("No Finding", "Efusion"))
    with pytest.raises(UsageError, match="once"):
        build(("Effusion", "Effusion"))
    with pytest.raises(UsageError, match="once"):
        build(())
    with pytest.raises(UsageError, match="input_size"):
        build(size=16)
    with pytest.raises(UsageError, match="two classes"):
        build(("Effusion",), shortcut=0.5, shortcut_class="Effusion")
    with pytest.raises(UsageError, match="index"):
        render(0, -1, 64, finding="Effusion")
    with pytest.raises(UsageError, match="no finding"):
        render(0, 0, 64, finding="Pneumonia")

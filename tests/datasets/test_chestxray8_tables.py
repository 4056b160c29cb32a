from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xaibench.datasets.chestxray8.options import parse_options
from xaibench.datasets.chestxray8.splits import find_candidates, shared_patients
from xaibench.datasets.chestxray8.tables import Tables, parse_boxes, parse_entries, parse_list, read_tables
from xaibench.errors import DataError

from .nih_release import BOX_HEADER, HEADER, entry

ROW = "00000001_000.png,Effusion,1.5,2,3,4"
DISEASES = ["Cardiomegaly", "Pneumothorax", "Effusion"]


@pytest.fixture(scope="module")
def real(nih_sample: Path) -> Tables:
    return read_tables(nih_sample)


def test_the_real_tables_have_the_releases_size(real: Tables) -> None:
    records = real.entries.records
    assert (len(records), len({record.patient for record in records.values()})) == (112_120, 30_805)
    assert Counter(record.view for record in records.values()) == {"PA": 67_310, "AP": 44_810}
    assert (len(real.boxes.boxes), len({box.id for box in real.boxes.boxes})) == (984, 880)
    assert (len(real.train_val or ()), len(real.test or ())) == (86_524, 25_596)
    assert (real.train_val or [""])[-1].endswith(".png")
    assert real.boxes.aliases == {"Infiltrate": 123}
    assert not real.entries.misnamed
    assert not real.entries.odd_ages


def test_boxes_of_the_real_tables(real: Tables) -> None:
    assert Counter(box.label for box in real.boxes.boxes) == {
        "Atelectasis": 180,
        "Effusion": 153,
        "Cardiomegaly": 146,
        "Infiltration": 123,
        "Pneumonia": 120,
        "Pneumothorax": 98,
        "Mass": 85,
        "Nodule": 79,
    }
    per_image = Counter(box.id for box in real.boxes.boxes)
    assert sum(n > 1 for n in per_image.values()) == 93
    alone = Counter(box.label for box in real.boxes.boxes if per_image[box.id] == 1)
    assert [alone[label] for label in DISEASES] == [135, 86, 102]
    assert set(per_image) <= set(real.test or ())
    assert all(box.label in real.entries.records[box.id].labels for box in real.boxes.boxes)


def test_single_label_images_of_the_real_tables(real: Tables) -> None:
    single = {label: [r for r in real.entries.records.values() if r.labels == (label,)] for label in DISEASES}
    assert [len(single[label]) for label in DISEASES] == [1093, 2194, 3955]
    train_val = set(real.train_val or ())
    assert [sum(r.id in train_val for r in single[label]) for label in DISEASES] == [777, 1241, 2788]


def test_candidates_that_share_a_patient_with_a_boxed_image(real: Tables) -> None:
    candidates = find_candidates(real, DISEASES, parse_options({}))
    shared = shared_patients(candidates.pool, candidates.boxed)
    assert [shared[k] for k in range(3)] == [161, 411, 513]


@pytest.mark.parametrize(
    "text",
    [
        f"{BOX_HEADER}\n{ROW}\n",
        f"{BOX_HEADER}\r\n{ROW}",
        ROW,
        f"{ROW},,,\n\n",
        '00000001_000.png,Effusion,"[1.5,2,3,4]"',
        f"anything,at,all\n \n{ROW}\n{ROW}",
    ],
)
def test_boxes_are_parsed_by_content(text: str) -> None:
    (box,) = parse_boxes(text, "boxes").boxes
    assert box == ("00000001_000.png", "Effusion", 1.5, 2, 3, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no boxes"),
        (BOX_HEADER, "no boxes"),
        (f"{ROW}\n00000002_000.png,Effusion,1,2,3", "line 2"),
        ("00000002_000.png,Effusion,1,2,3", "line 1"),
        (f"{ROW}\n00000002_000.png,Effusion,1,2,nan,4", "line 2"),
        (f"{ROW}\n00000002_000.png,,1,2,3,4", "line 2"),
        (f"{ROW}\n../1.png,Effusion,1,2,3,4", "no plain"),
        (f"{ROW}\n00000001_000.png,Effusion,9,2,3,4", "a second Effusion box"),
    ],
)
def test_damaged_boxes_are_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_boxes(text, "boxes.csv")


def parsed_or_message(parse: Callable[[str, str], Any], text: str) -> Any:
    try:
        return parse(text, "table.csv")
    except DataError as error:
        return str(error)


csv_like = st.text(st.sampled_from('0123456789abEffusion_.png,"\n\r-+enai[]/\\\x00 '), max_size=80)


@given(st.one_of(st.text(max_size=200), csv_like, csv_like.map(lambda text: f"{ROW}\n{text}")))
def test_arbitrary_text_is_boxes_or_a_data_error(text: str) -> None:
    parsed = parsed_or_message(parse_boxes, text)
    if isinstance(parsed, str):
        assert parsed.startswith("table.csv")
        assert "\n" not in parsed
    else:
        assert parsed.boxes
        assert not any({"/", "\\"} & set(box.id) or box.id.startswith(".") for box in parsed.boxes)


@given(st.lists(st.tuples(*[st.floats(-1e6, 1e6)] * 4), min_size=1, max_size=5))
def test_boxes_keep_their_numbers(numbers: list[tuple[float, float, float, float]]) -> None:
    text = "\n".join(f"{i:08d}_000.png,Mass,{','.join(map(repr, row))}" for i, row in enumerate(numbers))
    assert [box[2:] for box in parse_boxes(text, "boxes").boxes] == numbers


def test_old_tables_are_read() -> None:
    rows = [
        entry(1, "Infiltrate|Pleural Thickening", age="058Y", end=","),
        entry(2, "No Finding", age="414", end=","),
        entry(3, "Mass", age="006M", end=","),
    ]
    entries = parse_entries("\n".join([HEADER + ",Unnamed: 11", *rows]), "old")
    first, second, third = entries.records.values()
    assert first.labels == ("Infiltration", "Pleural_Thickening")
    assert (first.age, second.age, third.age) == (58, None, 0.5)
    assert (first.patient, first.view, first.sex) == ("00000001", "PA", "M")
    assert entries.odd_ages == ["00000002_000.png: 414"]
    assert entries.aliases == {"Infiltrate": 1, "Pleural Thickening": 1}


def test_oddities_of_entries_are_counted() -> None:
    rows = [entry(1, "Mass"), entry(1, "Mass"), entry(2, ""), entry(3, "Mass").replace(",3,58", ",4,58")]
    entries = parse_entries("\n".join([HEADER, *rows]), "table")
    assert len(entries.records) == 3
    assert entries.duplicates == ["00000001_000.png"]
    assert entries.unlabelled == ["00000002_000.png"]
    assert entries.misnamed == ["00000003_000.png"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "no column 'Image Index'"),
        ([HEADER], "no rows"),
        ([HEADER.replace("Patient ID", "Person"), entry(1, "Mass")], "no column 'Patient ID'"),
        ([HEADER, entry(1, "Mass"), "00000002_000.png,Mass"], "line 3: 2 fields"),
        ([HEADER, entry(1, "Mass"), entry(1, "Edema")], "listed twice with different content"),
        ([HEADER, entry(1, "Mass").replace(",1,58", ",,58")], "no patient id"),
        ([HEADER, entry(1, "Mass").replace("00000001", "../../etc/passwd")], "no plain"),
        ([HEADER, entry(1, "Mass").replace("00000001", "/etc/x")], "no plain"),
        ([HEADER, entry(1, "Mass").replace("00000001", "..\\x")], "no plain"),
        ([HEADER, entry(1, "Mass").replace("00000001_000.png", "..")], "no plain"),
    ],
)
def test_damaged_entries_are_refused(lines: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_entries("\n".join(lines), "Data_Entry.csv")


@given(st.one_of(st.text(max_size=200), csv_like.map(lambda text: f"{HEADER}\n{text}")))
def test_arbitrary_text_is_entries_or_a_data_error(text: str) -> None:
    parsed = parsed_or_message(parse_entries, text)
    assert parsed.startswith("table.csv") if isinstance(parsed, str) else parsed.records


def test_lists() -> None:
    assert parse_list("00000001_000.png\r\n\n00000002_000.png", "list") == ["00000001_000.png", "00000002_000.png"]
    with pytest.raises(DataError, match="list: empty"):
        parse_list("\n", "list")
    with pytest.raises(DataError, match="line 1"):
        parse_list("../x.png", "list")


def test_missing_tables_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_tables(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no Data_Entry_2017"):
        read_tables(tmp_path)
    (tmp_path / "Data_Entry_2017.csv").write_text(f"{HEADER}\n{entry(1, 'Mass')}")
    with pytest.raises(DataError, match="no BBox_List_2017"):
        read_tables(tmp_path)
    (tmp_path / "BBox_List_2017.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"BBox_List_2017\.csv: not UTF-8"):
        read_tables(tmp_path)


def test_the_v2020_table_is_preferred(tmp_path: Path) -> None:
    for file, label in (("Data_Entry_2017.csv", "Mass"), ("Data_Entry_2017_v2020.csv", "Edema")):
        (tmp_path / file).write_text(f"{HEADER}\n{entry(1, label)}")
    (tmp_path / "BBox_List_2017.csv").write_text(ROW)
    tables = read_tables(tmp_path)
    assert tables.entries.records["00000001_000.png"].labels == ("Edema",)
    assert tables.train_val is None

"""The demo: a warehouse made up from a seed, and a server that hands it out."""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import botocore.session
import pydicom
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from pydicom.uid import ExplicitVRLittleEndian

from nccid_fetch import demo
from nccid_fetch.demo.server import DemoServer
from nccid_fetch.demo.synthetic import EDGE_CASE_PATIENTS, SyntheticObject, warehouse, write_tree
from nccid_fetch.errors import UsageError
from nccid_fetch.warehouse import BUCKET, PARTS, part_of

MODALITIES = {"ct": {"CT"}, "mri": {"MR"}, "xray": {"DX", "CR"}, "unknown": {"SR", "PR"}}
PSEUDONYM = re.compile(r"Covid([0-9]{4}|[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12})")
UID = re.compile(r"2\.25\.(0|[1-9][0-9]*)")


@pytest.fixture(scope="module")
def bodies() -> dict[str, bytes]:
    return {item.key: item.body for item in warehouse()}


@pytest.fixture(scope="module")
def clinical(bodies: dict[str, bytes]) -> dict[str, dict[str, Any]]:
    return {key: json.loads(body) for key, body in bodies.items() if part_of(key, "training") == "data"}


@pytest.fixture(scope="module")
def metadata(bodies: dict[str, bytes]) -> dict[str, dict[str, Any]]:
    return {key: json.loads(body) for key, body in bodies.items() if part_of(key, "training").endswith("-metadata")}


def images(bodies: dict[str, bytes]) -> dict[str, bytes]:
    return {key: body for key, body in bodies.items() if part_of(key, "training") in MODALITIES}


def stems(keys: Iterator[str] | set[str] | dict[str, Any]) -> set[str]:
    """Where a key stands in its part, without the suffix: what an image and its metadata have in common."""
    return {
        part_of(key, "training").removesuffix("-metadata") + "/" + key.split("/", 2)[2].rpartition(".")[0]
        for key in keys
    }


def elements(node: Any) -> Iterator[tuple[str, Any]]:
    """Yield every tag of a metadata file with its element, nested ones too."""
    if isinstance(node, dict):
        for name, child in node.items():
            if re.fullmatch("[0-9A-F]{8}", name):
                yield name, child
            yield from elements(child)
    elif isinstance(node, list):
        for child in node:
            yield from elements(child)


class TestSeed:
    def test_the_same_seed_gives_the_same_bytes(self, bodies: dict[str, bytes]) -> None:
        assert list(bodies.items()) == [(item.key, item.body) for item in warehouse()]

    def test_the_bytes_are_those_of_every_other_machine(self, bodies: dict[str, bytes]) -> None:
        """Not hash seeds, not locales: the keys at least are the same everywhere, whatever pydicom writes."""
        digest = hashlib.sha256("\n".join(bodies).encode("ascii")).hexdigest()
        assert digest == "5443a29d69ee9ec0349bbbac12d1e40752821ba634daaf0119eb954be3cb6b80"

    def test_another_seed_or_group_gives_other_images(self, bodies: dict[str, bytes]) -> None:
        others = {item.key for item in warehouse(patients=3, seed=1)}
        validation = {item.key for item in warehouse("validation", patients=3)}
        assert not stems(images(dict.fromkeys(others, b""))) & stems(images(bodies))
        assert {key.split("/")[0] for key in validation} == {"validation"}
        patients = {key.split("/")[2] for key in validation}
        assert not patients & {key.split("/")[2] for key in bodies}

    def test_a_small_warehouse_begins_a_large_one(self, bodies: dict[str, bytes]) -> None:
        few = [(item.key, item.body) for item in warehouse(patients=3)]
        assert few == list(bodies.items())[: len(few)]

    def test_there_are_only_two_groups(self) -> None:
        with pytest.raises(ValueError, match="no such group: test"):
            next(warehouse("test"))


class TestKeys:
    def test_all_parts_and_the_undocumented_ones_are_there(self, bodies: dict[str, bytes]) -> None:
        assert {part_of(key, "training") for key in bodies} == {*PARTS, "unknown", "unknown-metadata"}

    def test_no_key_comes_twice_and_each_is_ascii(self) -> None:
        keys = [item.key for item in warehouse()]
        assert len(keys) == len(set(keys))
        assert all(key.isascii() for key in keys)

    def test_the_size_is_that_of_a_demo(self, bodies: dict[str, bytes]) -> None:
        assert 500 <= len(bodies) <= 900
        assert 15e6 <= sum(map(len, bodies.values())) <= 40e6

    def test_keys_follow_the_grammar(self, bodies: dict[str, bytes]) -> None:
        for key in bodies:
            group, part, patient, *rest = key.split("/")
            assert group == "training"
            assert PSEUDONYM.fullmatch(patient)
            if part == "data":
                (name,) = rest
                assert re.fullmatch(r"(data|status)_202[01]-[01][0-9]-[0-3][0-9]\.json", name)
            else:
                study, series, name = rest
                stem, _, suffix = name.rpartition(".")
                for uid in (study, series, stem):
                    assert UID.fullmatch(uid)
                    assert len(uid) <= 64
                assert suffix == "json" if part.endswith("-metadata") else suffix in ("dcm", "DCM")


class TestEdgeCases:
    def test_one_pseudonym_is_a_uuid(self, bodies: dict[str, bytes]) -> None:
        patients = {key.split("/")[2] for key in bodies}
        assert sum(len(patient) > len("Covid0000") for patient in patients) == 1
        assert "Covid0000" in patients

    def test_whoever_has_images_has_clinical_files_but_one_has_nothing_else(self, bodies: dict[str, bytes]) -> None:
        parts = defaultdict(set)
        for key in bodies:
            parts[key.split("/")[2]].add(part_of(key, "training"))
        assert all("data" in held for held in parts.values())
        assert [patient for patient, held in parts.items() if held == {"data"}] == ["Covid0004"]

    def test_one_image_has_an_upper_case_suffix_and_its_metadata_has_not(self, bodies: dict[str, bytes]) -> None:
        (key,) = (key for key in bodies if key.endswith(".DCM"))
        assert key.replace("/xray/", "/xray-metadata/").replace(".DCM", ".json") in bodies

    def test_one_image_has_no_metadata_and_one_metadata_no_image(
        self, bodies: dict[str, bytes], metadata: dict[str, Any]
    ) -> None:
        (lone_image,) = stems(images(bodies)) - stems(metadata)
        (lone_metadata,) = stems(metadata) - stems(images(bodies))
        assert lone_image.startswith("ct/")
        assert lone_metadata.startswith("xray/")

    def test_one_patient_has_two_files_of_each_kind(self, clinical: dict[str, Any]) -> None:
        kinds = defaultdict(list)
        for key in clinical:
            kinds[key.split("/")[2]].append(PurePosixPath(key).name.partition("_")[0])
        assert [patient for patient, found in kinds.items() if sorted(found) == ["data", "data", "status", "status"]]
        assert ["status"] in kinds.values()

    def test_one_patient_was_at_two_centres(self, clinical: dict[str, Any]) -> None:
        centres = defaultdict(set)
        for content in clinical.values():
            centres[content["Pseudonym"]].add(content["SubmittingCentre"])
        assert sum(len(found) == 2 for found in centres.values()) == 1

    @pytest.mark.parametrize("seed", range(1, 4))
    def test_every_edge_case_needs_few_patients_and_no_particular_seed(self, seed: int) -> None:
        keys = {item.key for item in warehouse(patients=EDGE_CASE_PATIENTS, seed=seed)}
        assert {part_of(key, "training") for key in keys} == {*PARTS, "unknown", "unknown-metadata"}
        held = stems({key for key in keys if part_of(key, "training") in MODALITIES})
        described = stems({key for key in keys if part_of(key, "training").endswith("-metadata")})
        assert len(held - described) == len(described - held) == 1
        assert sum(key.endswith(".DCM") for key in keys) == 1


class TestImages:
    def test_every_image_opens_and_agrees_with_its_key(self, bodies: dict[str, bytes]) -> None:
        for key, body in images(bodies).items():
            _, part, patient, study, series, name = key.split("/")
            dataset = pydicom.dcmread(BytesIO(body))
            assert dataset.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
            assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
            assert dataset.file_meta.MediaStorageSOPClassUID == dataset.SOPClassUID
            assert dataset.Modality in MODALITIES[part]
            assert dataset.PatientID == patient
            assert dataset.StudyInstanceUID == study
            assert dataset.SeriesInstanceUID == series
            assert dataset.SOPInstanceUID == name[:-4]
            assert dataset.StudyDate.startswith("2020")

    def test_the_pixels_are_as_many_as_the_header_says(self, bodies: dict[str, bytes]) -> None:
        without = []
        for key, body in images(bodies).items():
            dataset = pydicom.dcmread(BytesIO(body))
            if "PixelData" not in dataset:
                without.append(key)
                continue
            size = dataset.Rows * dataset.Columns * dataset.SamplesPerPixel * dataset.BitsAllocated // 8
            assert len(dataset.PixelData) == size
            assert max(dataset.PixelData[1::2]) < 1 << (dataset.BitsStored - 8)
        assert {part_of(key, "training") for key in without} == {"unknown"}

    def test_slices_come_in_series(self, bodies: dict[str, bytes]) -> None:
        series: defaultdict[str, int] = defaultdict(int)
        for key in images(bodies):
            if part_of(key, "training") == "ct":
                series[key.rpartition("/")[0]] += 1
        assert all(5 <= count <= 12 for count in series.values())
        assert len(set(series.values())) > 3


class TestMetadata:
    def test_it_is_written_as_the_warehouse_writes_it(self, bodies: dict[str, bytes], metadata: dict[str, Any]) -> None:
        for key, content in metadata.items():
            assert bodies[key] == json.dumps(content).encode("ascii")
            assert b"\n" not in bodies[key]
            assert list(content) == sorted(content)

    def test_it_has_neither_the_file_header_nor_the_pixels(self, metadata: dict[str, Any]) -> None:
        for content in metadata.values():
            assert all(re.fullmatch("[0-9A-F]{8}", tag) for tag in content)
            assert all("0003" < tag < "7FE00010" for tag in content)

    def test_it_agrees_with_its_key(self, metadata: dict[str, Any]) -> None:
        for key, content in metadata.items():
            _, part, patient, study, series, name = key.split("/")
            assert content["00080060"]["Value"][0] in MODALITIES[part.removesuffix("-metadata")]
            assert content["00100010"] == {"vr": "PN", "Value": [{"Alphabetic": patient}]}
            assert content["00100020"]["Value"] == [patient]
            assert content["0020000D"]["Value"] == [study]
            assert content["0020000E"]["Value"] == [series]
            assert content["00080018"]["Value"] == [name.removesuffix(".json")]

    def test_it_says_what_the_image_says(self, bodies: dict[str, bytes], metadata: dict[str, Any]) -> None:
        for key, content in metadata.items():
            body = bodies.get(key.replace("-metadata/", "/").replace(".json", ".dcm"))
            if body is not None:
                held = {f"{tag:08X}" for tag in pydicom.dcmread(BytesIO(body)).keys()}  # noqa: SIM118
                assert held - {"7FE00010"} == set(content)

    def test_it_deviates_from_the_standard_as_the_real_one_does(self, metadata: dict[str, Any]) -> None:
        found = [pair for content in metadata.values() for pair in elements(content)]
        assert ("00283010", None) in found
        assert all(element is None for tag, element in found if tag == "00283010")
        others = [(tag, element) for tag, element in found if tag != "00283010"]
        assert {"vr": "OB", "InlineBinary": None} in [element for _, element in others]
        assert all(element["InlineBinary"] is None for _, element in others if "InlineBinary" in element)
        assert {"vr": "LO"} in [element for _, element in others]
        sequences = [element for _, element in others if element["vr"] == "SQ"]
        assert all("Value" in element for element in sequences)
        assert any(element["Value"] for element in sequences)
        assert any(not element["Value"] for element in sequences)
        assert any(int(tag[:4], 16) % 2 for tag, _ in others), "a private tag"
        ages = {element["Value"][0] for tag, element in others if tag == "00101010"}
        assert any(age.endswith("Y") for age in ages)
        assert any(age.isdigit() for age in ages)

    def test_some_x_rays_have_no_lookup_table(self, metadata: dict[str, Any]) -> None:
        tables = {"00283010" in content for key, content in metadata.items() if "/xray-metadata/" in key}
        assert tables == {True, False}

    def test_letters_beyond_ascii_are_escaped(self, bodies: dict[str, bytes]) -> None:
        assert any(b"\\u00b0" in body for key, body in bodies.items() if "/xray-metadata/" in key)


class TestClinicalFiles:
    def test_every_file_names_its_patient_and_a_centre(self, clinical: dict[str, Any]) -> None:
        for key, content in clinical.items():
            assert content["Pseudonym"] == key.split("/")[2]
            assert re.fullmatch("Centre [A-D]", content["SubmittingCentre"])

    def test_a_positive_file_has_the_headings_of_a_spreadsheet(self, clinical: dict[str, Any]) -> None:
        positive = [content for key, content in clinical.items() if "/data_" in key]
        assert all("Date of Positive Covid Swab" in content for content in positive)
        assert all("Fibrinogen  if d-dimer not performed" in content for content in positive)
        nested = [content["OtherDataSources"] for content in positive if "OtherDataSources" in content]
        assert 0 < len(nested) < len(positive)
        assert all(isinstance(content["SegmentationData"], dict) for content in nested)

    def test_the_values_are_dirty(self, clinical: dict[str, Any]) -> None:
        positive = [content for key, content in clinical.items() if "/data_" in key]
        values = [value for content in positive for value in content.values()]
        assert None in values
        assert " " in values
        swabs = [content["Date of Positive Covid Swab"] for content in positive]
        assert any(isinstance(day, int) and 43831 <= day <= 44196 for day in swabs), "a serial number of 2020"
        texts = " ".join(day for day in swabs if isinstance(day, str))
        assert re.search(r"\b[01][0-9]/[0-3][0-9]/2020", texts)
        assert re.search(r"\[Text\] - 2020-[01][0-9]-[0-3][0-9]", texts)

    def test_a_negative_file_has_one_swab_or_a_list(self, clinical: dict[str, Any]) -> None:
        negative = [content for key, content in clinical.items() if "/status_" in key]
        older = [content for content in negative if "SwabStatus" in content]
        newer = [content for content in negative if "SwabDates" in content]
        assert older
        assert newer
        assert len(older) + len(newer) == len(negative)
        swabs = older + [swab for content in newer for swab in content["SwabDates"]]
        assert all(swab["SwabStatus"] == 0 for swab in swabs)
        assert all(re.fullmatch(r"[0-3][0-9]/[01][0-9]/2020", swab["SwabDate"]) for swab in swabs)


class TestTree:
    def test_every_object_becomes_a_file(self, tmp_path: Path) -> None:
        objects = list(warehouse(patients=2))
        assert write_tree(tmp_path, objects) == len(objects)
        found = {
            path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()
        }
        assert found == {item.key: item.body for item in objects}

    def test_nothing_is_written_of_nothing(self, tmp_path: Path) -> None:
        assert write_tree(tmp_path, []) == 0


class Served:
    """A server with the default warehouse, and a client that was told of it by its environment alone."""

    def __init__(self, server: DemoServer) -> None:
        told = server.environment
        self.server = server
        self.client = botocore.session.get_session().create_client(
            "s3",
            endpoint_url=told["AWS_ENDPOINT_URL"],
            aws_access_key_id=told["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=told["AWS_SECRET_ACCESS_KEY"],
            region_name=told["AWS_REGION"],
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )


@pytest.fixture(scope="module")
def served(bodies: dict[str, bytes]) -> Iterator[Served]:
    with DemoServer() as server:
        assert server.load(SyntheticObject(*pair) for pair in bodies.items()) == len(bodies)
        made = Served(server)
        yield made
        made.client.close()


class TestServer:
    def test_it_listens_on_this_machine_only(self, served: Served) -> None:
        assert re.fullmatch(r"http://127\.0\.0\.1:[1-9][0-9]+", served.server.endpoint_url)
        assert served.server.environment["AWS_DEFAULT_REGION"] == "eu-west-2"

    def test_it_lists_what_was_loaded(self, served: Served, bodies: dict[str, bytes]) -> None:
        pages = served.client.get_paginator("list_objects_v2").paginate(
            Bucket=BUCKET, Prefix="training/", PaginationConfig={"PageSize": 250}
        )
        listed = [item for page in pages for item in page["Contents"]]
        assert [item["Key"] for item in listed] == sorted(bodies)
        for item in listed:
            body = bodies[item["Key"]]
            assert item["Size"] == len(body)
            assert item["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'

    def test_it_lists_the_parts(self, served: Served) -> None:
        page = served.client.list_objects_v2(Bucket=BUCKET, Prefix="training/", Delimiter="/")
        parts = {item["Prefix"] for item in page["CommonPrefixes"]}
        assert parts == {f"training/{part}/" for part in (*PARTS, "unknown", "unknown-metadata")}

    def test_it_serves_what_was_loaded(self, served: Served, bodies: dict[str, bytes]) -> None:
        by_part = {part_of(key, "training"): key for key in bodies}
        for key in by_part.values():
            answer = served.client.get_object(Bucket=BUCKET, Key=key)
            assert answer["Body"].read() == bodies[key]
            assert answer["ETag"] == f'"{hashlib.md5(bodies[key]).hexdigest()}"'
            assert answer["ServerSideEncryption"] == "AES256"

    def test_a_version_can_be_insisted_on(self, served: Served, bodies: dict[str, bytes]) -> None:
        key = min(bodies)
        etag = f'"{hashlib.md5(bodies[key]).hexdigest()}"'
        assert served.client.get_object(Bucket=BUCKET, Key=key, IfMatch=etag)["Body"].read() == bodies[key]
        with pytest.raises(ClientError) as caught:
            served.client.get_object(Bucket=BUCKET, Key=key, IfMatch=f'"{"0" * 32}"')
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 412
        assert caught.value.response["Error"]["Code"] == "PreconditionFailed"

    def test_a_range_is_a_partial_answer(self, served: Served, bodies: dict[str, bytes]) -> None:
        key = min(bodies)
        answer = served.client.get_object(Bucket=BUCKET, Key=key, Range="bytes=10-19")
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 206
        assert answer["ContentRange"] == f"bytes 10-19/{len(bodies[key])}"
        assert answer["Body"].read() == bodies[key][10:20]

    def test_a_head_tells_size_and_encryption(self, served: Served, bodies: dict[str, bytes]) -> None:
        key = min(bodies)
        answer = served.client.head_object(Bucket=BUCKET, Key=key)
        assert answer["ContentLength"] == len(bodies[key])
        assert answer["ServerSideEncryption"] == "AES256"

    def test_what_is_not_there_is_not_found(self, served: Served) -> None:
        with pytest.raises(ClientError) as caught:
            served.client.get_object(Bucket=BUCKET, Key="training/data/Covid9999/data_2020-01-01.json")
        assert caught.value.response["Error"]["Code"] == "NoSuchKey"

    def test_more_can_be_loaded_and_replaces_what_was_there(self, served: Served) -> None:
        for body in (b"old", b"newer"):
            assert served.server.load([SyntheticObject("training/a", body)], "another-bucket") == 1
        answer = served.client.get_object(Bucket="another-bucket", Key="training/a")
        assert answer["Body"].read() == b"newer"
        assert answer["ETag"] == f'"{hashlib.md5(b"newer").hexdigest()}"'


def test_the_extra_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    demo.require_extra()
    monkeypatch.setattr(demo, "find_spec", lambda _name: None)
    with pytest.raises(UsageError, match="the demo needs its extra") as caught:
        demo.require_extra()
    assert caught.value.hint == "pip install 'nccid-fetch[demo]'"

"""Label files in their published formats, with lines as the published files have them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from avssl.data.label_formats import FORMATS, KINETICS_SOUNDS
from avssl.data.labels import (
    LabelFiles,
    Listing,
    labels_of,
    place_segments,
    read_classes,
    read_labels,
)
from avssl.data.manifest import Clip, Manifest
from avssl.data.prepare import prepare_manifest
from avssl.errors import UserError

AUDIOSET = """# Segments csv created Sun Mar  5 10:54:25 2017
# num_ytids=3, num_segs=3, num_unique_labels=5, num_positive_labels=6
# YTID, start_seconds, end_seconds, positive_labels
--4gqARaEJE, 0.000, 10.000, "/m/068hy,/m/07q6cd_,/m/0bt9lr,/m/0jbk"
--BfvyPmVMo, 20.000, 30.000, "/m/03l9g"
--U7joUcTCo, 0.000, 10.000, "/m/01b_21"
"""
INDEX = """index,mid,display_name
73,/m/068hy,"Domestic animals, pets"
74,/m/0bt9lr,"Dog"
72,/m/0jbk,"Animal"
361,/m/07q6cd_,"Squeak"
"""
VGGSOUND = """--0PQM4-hqg,30,waterfall burbling,train
---g-f_I2yQ,1,people marching,test
-0BIyqJj9ZU,30,"race car, auto racing",test
"""
ESC = """filename,fold,target,category,esc10,src_file,take
1-100032-A-0.wav,1,0,dog,True,100032,A
5-100038-A-14.wav,5,14,chirping_birds,False,100038,A
"""
KINETICS = """label,youtube_id,time_start,time_end,split,is_cc
abseiling,-3B32lodo2M,59,69,train,0
"playing bagpipes",_dbcJuKJQNs,40,50,validate,0
"""


def files(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / "media" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder / "media"


def text(path: Path, content: str) -> str:
    path.write_text(content, encoding="utf-8")
    return str(path)


def rows(listing: Listing) -> dict[str, tuple[str, str]]:
    return {clip.path: (clip.label, clip.split) for clip in listing.manifest.clips}


def test_audioset_names_every_label_and_every_missing_clip(tmp_path: Path) -> None:
    media = files(tmp_path, "--4gqARaEJE.flac", "sub/--BfvyPmVMo_20.000.wav", "other.wav")
    text(tmp_path / "class_labels_indices.csv", INDEX)
    found = read_labels([text(tmp_path / "eval_segments.csv", AUDIOSET)], media, format="audioset")
    assert rows(found) == {
        "--4gqARaEJE.flac": ("Domestic animals, pets;Squeak;Dog;Animal", "test"),
        "sub/--BfvyPmVMo_20.000.wav": ("/m/03l9g", "test"),
    }
    assert labels_of(found.manifest.clips[0]) == [
        "Domestic animals, pets",
        "Squeak",
        "Dog",
        "Animal",
    ]
    assert found.missing == ["--U7joUcTCo"] and found.unlisted == 1
    assert "--U7joUcTCo" in found.describe()


@pytest.mark.parametrize(
    "name",
    "--BfvyPmVMo --BfvyPmVMo_20 --BfvyPmVMo_000020 --BfvyPmVMo_20.000 --BfvyPmVMo_20_30 "
    "--BfvyPmVMo_20000_30000 Y--BfvyPmVMo".split(),
)
def test_audioset_files_under_the_names_of_download_tools(tmp_path: Path, name: str) -> None:
    media = files(tmp_path, f"{name}.mp4")
    label = text(tmp_path / "balanced_train_segments.csv", AUDIOSET)
    assert rows(read_labels([label], media, format="audioset")) == {
        f"{name}.mp4": ("/m/03l9g", "train")
    }


def test_audioset_split_is_named_or_asked_for(tmp_path: Path) -> None:
    media = files(tmp_path, "--4gqARaEJE.wav")
    file = text(tmp_path / "mine.csv", AUDIOSET)
    with pytest.raises(UserError, match="train="):
        read_labels([file], media, format="audioset")
    found = read_labels([f"test={file}"], media, format="audioset")
    assert [clip.split for clip in found.manifest.clips] == ["test"]


def test_vggsound(tmp_path: Path) -> None:
    media = files(tmp_path, "--0PQM4-hqg_000030.mp4", "-0BIyqJj9ZU_000030.mp4")
    found = read_labels([text(tmp_path / "vggsound.csv", VGGSOUND)], media, format="vggsound")
    assert rows(found) == {
        "--0PQM4-hqg_000030.mp4": ("waterfall burbling", "train"),
        "-0BIyqJj9ZU_000030.mp4": ("race car, auto racing", "test"),
    }
    assert found.missing == ["---g-f_I2yQ_000001"]


def test_esc_folds(tmp_path: Path) -> None:
    media = files(tmp_path, "audio/1-100032-A-0.wav", "audio/5-100038-A-14.wav")
    file = text(tmp_path / "esc50.csv", ESC)
    found = read_labels([file], media, format="esc50").manifest.clips
    assert [(clip.label, clip.split, clip.extra["fold"]) for clip in found] == [
        ("dog", "train", "1"),
        ("chirping_birds", "test", "5"),
    ]
    ten = read_labels([file], media, format="esc10").manifest.clips
    assert [clip.label for clip in ten] == ["dog"]


def test_kinetics_and_its_sounds(tmp_path: Path) -> None:
    media = files(
        tmp_path, "abseiling/-3B32lodo2M_000059_000069.mp4", "_dbcJuKJQNs_000040_000050.mp4"
    )
    file = text(tmp_path / "kinetics.csv", KINETICS)
    assert rows(read_labels([file], media, format="kinetics")) == {
        "abseiling/-3B32lodo2M_000059_000069.mp4": ("abseiling", "train"),
        "_dbcJuKJQNs_000040_000050.mp4": ("playing bagpipes", "val"),
    }
    sounds = read_labels([file], media, format="kinetics-sounds")
    assert [clip.label for clip in sounds.manifest.clips] == ["playing bagpipes"]
    assert sounds.other_classes == 1 and "tap dancing" in sounds.unknown
    chosen = read_labels([file], media, format="kinetics", classes=["Abseiling"])
    assert [clip.label for clip in chosen.manifest.clips] == ["Abseiling"]


def test_lists_of_videomae(tmp_path: Path) -> None:
    first = "abseiling/-3B32lodo2M_000059_000069.mp4"
    media = files(tmp_path, first, "air drumming/b.mp4", "c.mp4")
    train = text(
        tmp_path / "train.csv",
        "/data/k400/-3B32lodo2M_000059_000069.mp4 0\nair drumming/b.mp4  1\n\n",
    )
    val = text(tmp_path / "val.csv", "c.mp4 10\n")
    found = read_labels([train, val], media, format="videomae")
    assert rows(found) == {
        first: ("0", "train"),
        "air drumming/b.mp4": ("1", "train"),
        "c.mp4": ("10", "val"),
    }
    assert found.manifest.classes() == ["0", "1", "10"]
    mine = text(tmp_path / "mine.csv", "c.mp4 10\n")
    with pytest.raises(UserError, match=r"does not say its split: write train="):
        read_labels([mine], media, format="videomae")
    assert rows(read_labels([f"test={mine}"], media, format="videomae")) == {
        "c.mp4": ("10", "test")
    }
    frames = text(tmp_path / "test.csv", "c.mp4 10\nframes/78687 117 3\n")
    with pytest.raises(UserError, match=r"test\.csv, line 2: .* folders of frames are not read"):
        read_labels([frames], media, format="videomae")


SOMETHING = """[
 {"id": "78687", "label": "holding potato next to vicks vaporub bottle",
  "template": "Holding [something] next to [something]", "placeholders": ["potato", "bottle"]},
 {"id": "42326", "label": "covering salt shaker", "template": "Covering [something]"}
]"""
CLASSES = '{"Covering something": "0", "Holding something next to something": "1"}'


@pytest.mark.parametrize("name", ["labels.json", "something-something-v2-labels.json"])
def test_something_something(tmp_path: Path, name: str) -> None:
    media = files(tmp_path, "78687.webm", "42326.mp4", "1420.webm")
    lists = [
        text(tmp_path / "something-something-v2-validation.json", SOMETHING),
        text(tmp_path / "something-something-v2-test.json", '[{"id":"1420"}]'),
    ]
    with pytest.raises(UserError, match=r"list of classes beside it, called labels\.json"):
        read_labels(lists, media, format="something-something")
    index = tmp_path / text(tmp_path / name, CLASSES)
    assert rows(read_labels(lists, media, format="something-something")) == {
        "78687.webm": ("Holding something next to something", "val"),
        "42326.mp4": ("Covering something", "val"),
        "1420.webm": ("", "test"),
    }
    index.write_text('{"Covering something": "0"}')
    with pytest.raises(UserError, match=r"entry 1: 'Holding something next to something' is no"):
        read_labels(lists, media, format="something-something")
    index.write_text("{")
    with pytest.raises(UserError, match="is no JSON"):
        read_labels(lists, media, format="something-something")


def test_kinetics_sounds_has_no_class_twice() -> None:
    assert len(set(KINETICS_SOUNDS)) == 32


def test_ucf101_with_the_class_whose_files_are_spelt_otherwise(tmp_path: Path) -> None:
    media = files(
        tmp_path,
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi",
        "HandstandPushups/v_HandstandPushups_g01_c01.avi",
    )
    text(tmp_path / "classInd.txt", "1 ApplyEyeMakeup\n37 HandstandPushups\n")
    train = "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\n"
    test = "HandstandPushups/v_HandStandPushups_g01_c01.avi\n"
    text(tmp_path / "testlist01.txt", test)
    file = text(tmp_path / "trainlist01.txt", train)
    assert rows(read_labels([file], media, format="ucf101")) == {
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi": ("ApplyEyeMakeup", "train"),
        "HandstandPushups/v_HandstandPushups_g01_c01.avi": ("HandstandPushups", "test"),
    }


def test_both_ucf101_lists_give_each_clip_once(tmp_path: Path) -> None:
    media = files(tmp_path, "A/v_A_g01_c01.avi", "A/v_A_g02_c01.avi")
    text(tmp_path / "classInd.txt", "1 A\n")
    lists = [
        text(tmp_path / "trainlist01.txt", "A/v_A_g01_c01.avi 1\nA/v_A_g03_c01.avi 1\n"),
        text(tmp_path / "testlist01.txt", "A/v_A_g02_c01.avi\n"),
    ]
    found = read_labels(lists, media, format="ucf101")
    assert [(clip.path, clip.split) for clip in found.manifest.clips] == [
        ("A/v_A_g01_c01.avi", "train"),
        ("A/v_A_g02_c01.avi", "test"),
    ]
    assert found.missing == ["v_A_g03_c01"]
    lists.append(text(tmp_path / "trainlist02.txt", "A/v_A_g02_c01.avi 1\n"))
    text(tmp_path / "testlist02.txt", "A/v_A_g01_c01.avi\n")
    with pytest.raises(UserError, match=r"v_A_g02_c01 twice, as 'A' in the split .* and as 'A' in"):
        read_labels(lists, media, format="ucf101")


@pytest.mark.parametrize(
    "format, name, content, media",
    [
        ("audioset", "eval_segments.csv", AUDIOSET, "--4gqARaEJE.flac"),
        ("vggsound", "vggsound.csv", VGGSOUND, "---g-f_I2yQ_000001.mp4"),
        ("esc50", "esc50.csv", ESC, "1-100032-A-0.wav"),
        ("kinetics", "kinetics.csv", KINETICS, "-3B32lodo2M_000059_000069.mp4"),
    ],
)
def test_a_row_that_comes_again_counts_once_and_another_one_is_refused(
    tmp_path: Path, format: str, name: str, content: str, media: str
) -> None:
    folder = files(tmp_path, media)
    (tmp_path / "more").mkdir()
    once = read_labels([text(tmp_path / name, content)], folder, format=format)
    lists = [str(tmp_path / name), text(tmp_path / "more" / name, content)]
    again = read_labels(lists, folder, format=format)
    assert again == replace(once, unnamed=again.unnamed) and len(again.manifest.clips) == 1
    label = once.manifest.clips[0].label.split(";")[0]
    text(tmp_path / "more" / name, content.replace(label, "/m/other"))
    with pytest.raises(UserError, match=r"twice, as .* and as .*/m/other"):
        read_labels(lists, folder, format=format)


def test_two_rows_of_one_file_are_refused(tmp_path: Path) -> None:
    media = files(tmp_path, "x_a.mp4")
    rows = "label,youtube_id,time_start,time_end,split\none,x_a,1,2,train\ntwo,x_a,1.0,2,test\n"
    with pytest.raises(
        UserError, match=r"x_a.* twice, as 'one' in the split train and as 'two' in"
    ):
        read_labels([text(tmp_path / "k.csv", rows)], media, format="kinetics")


def test_segments_of_one_file_are_rows_of_their_own(tmp_path: Path) -> None:
    media = files(tmp_path, "x_a.mp4")
    rows = "label,youtube_id,time_start,time_end,split\none,x_a,1,2,train\ntwo,x_a,2,3,test\n"
    found = read_labels([text(tmp_path / "k.csv", rows)], media, format="kinetics")
    assert [clip.label for clip in found.manifest.clips] == ["one", "two"]
    assert found.unlisted == 0


def test_several_files_of_one_name_are_named(tmp_path: Path) -> None:
    media = files(tmp_path, "a/1-100032-A-0.wav", "b/1-100032-A-0.mp4", "b/other.wav", "other.wav")
    found = read_labels([text(tmp_path / "esc50.csv", ESC)], media, format="esc50")
    assert found.ambiguous == [["a/1-100032-A-0.wav", "b/1-100032-A-0.mp4"]]
    assert "a/1-100032-A-0.wav is taken, not b/1-100032-A-0.mp4" in found.describe()
    assert found.unlisted == 3


def test_labels_without_names_are_told(tmp_path: Path) -> None:
    media = files(tmp_path, "--4gqARaEJE.flac")
    file = text(tmp_path / "eval_segments.csv", AUDIOSET)
    told = read_labels([file], media, format="audioset").describe()
    assert f"labels of {file} are identifiers" in told and "class_labels_indices.csv" in told
    text(tmp_path / "class_labels_indices.csv", INDEX)
    assert "identifiers" not in read_labels([file], media, format="audioset").describe()


@pytest.mark.parametrize("length, cut", [(10.0, False), (25.0, False), (180.0, True)])
def test_whole_videos_are_cut_to_the_labelled_segment(length: float, cut: bool) -> None:
    clip = Clip("x.mp4", extra={"segment_start": "20", "segment_end": "30"})
    [placed] = place_segments([replace(clip, has_video=True, duration=length)])
    assert (placed.start, placed.end) == ((20, 30) if cut else (None, None))


@pytest.mark.parametrize(
    "content, format, wanted",
    [
        (VGGSOUND, "audioset", "--format vggsound"),
        (AUDIOSET, "vggsound", "--format audioset"),
        (ESC, "kinetics", "--format esc50"),
        (KINETICS, "esc10", "--format kinetics"),
        ("path,label\n", "ucf101", "begins with 'path,label'"),
        ("", "audioset", "not in the format audioset"),
        (AUDIOSET + "--x, 1\n", "audioset", "line 7: 2 cells"),
        (AUDIOSET + "--x, one, 2, /m/1\n", "audioset", "'one' is not a number"),
    ],
)
def test_another_format_is_named(tmp_path: Path, content: str, format: str, wanted: str) -> None:
    media = files(tmp_path, "--4gqARaEJE.wav")
    with pytest.raises(UserError, match=wanted):
        read_labels([text(tmp_path / "eval.csv", content)], media, format=format)


def test_other_mistakes_are_sentences(tmp_path: Path) -> None:
    media = files(tmp_path, "nothing.wav")
    file = text(tmp_path / "eval.csv", AUDIOSET)
    with pytest.raises(UserError, match="not one of the 3 clips"):
        read_labels([file], media, format="audioset")
    with pytest.raises(UserError, match="cannot read"):
        read_labels([str(tmp_path / "none.csv")], media, format="audioset")
    with pytest.raises(UserError, match=", ".join(FORMATS)):
        read_labels([file], media, format="audiosets")
    with pytest.raises(UserError, match="one a line"):
        read_classes(Path(text(tmp_path / "classes.txt", "\n")))


def test_a_labelled_folder_gets_a_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AVSSL_CACHE", str(tmp_path / "cache"))
    media = tmp_path / "media"
    media.mkdir()
    silence = np.zeros(40 * 8000, np.float32)
    soundfile.write(media / "--BfvyPmVMo.wav", silence, 8000)  # the whole video, 40 s
    soundfile.write(media / "--4gqARaEJE.wav", silence[:80000], 8000)  # the cut clip
    labels = LabelFiles([text(tmp_path / "eval_segments.csv", AUDIOSET)], "audioset")
    prepare_manifest(media, None, workers=1, limit=60, labels=labels)
    assert "--U7joUcTCo" in capsys.readouterr().out
    clips = {clip.path: clip for clip in Manifest.read(media / "manifest.csv").clips}
    whole, cut = clips["--BfvyPmVMo.wav"], clips["--4gqARaEJE.wav"]
    assert (whole.start, whole.end, whole.split) == (20, 30, "test")
    assert (cut.start, cut.end, len(labels_of(cut))) == (None, None, 4)
    with pytest.raises(UserError, match="must lie in"):
        prepare_manifest(media, tmp_path / "x.csv", workers=1, limit=60, labels=labels)

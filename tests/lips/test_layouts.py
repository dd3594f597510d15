"""Folders of published corpora, made up with the names and files that they have."""

import itertools
from pathlib import Path

import pytest

from avssl.data.manifest import Clip
from avssl.errors import UserError
from avssl.lips.layouts import VAL, cut_words, grid_text, held_back, read_layout

PRETRAIN = """Text:  WE ARE {NS} HERE TO STAY
Ref: abcdefghijk

FRAME \tX \tY \tW \tH
000000 \t0.3 \t0.2 \t0.2 \t0.3

WORD START END ASDSCORE
WE 0.10 0.30 9.1
ARE 0.30 0.60 8.0
HERE 2.00 2.40 7.7
TO 2.60 2.70 7.0
STAY 2.70 3.10 9.9
"""


def made(folder: Path, **files: str) -> Path:
    """A folder with files of these texts; "__" stands for "/" and "_dot_" for "."."""
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def rows(source: Path, layout: str, longest: float = 24.0) -> dict[str, Clip]:
    """The rows by path; those of one file by its last."""
    return {clip.path: clip for clip in read_layout(source, layout, longest=longest).clips}


def test_lrs3(tmp_path: Path) -> None:
    made(
        tmp_path,
        trainval__spk1__00001_dot_mp4="",
        trainval__spk1__00001_dot_txt="Text:  THAT'S IT\nConf:  3\n",
        trainval__spk1__00002_dot_mp4="",
        test__spk9__00001_dot_mp4="",
        test__spk9__00001_dot_txt="Text:  THE END\n",
        pretrain__spk2__00001_dot_mp4="",
        pretrain__spk2__00001_dot_txt=PRETRAIN,
    )
    found = rows(tmp_path, "lrs3")
    one = found["trainval/spk1/00001.mp4"]
    assert (one.text, one.split) == ("that's it", "train")
    assert one.extra == {"set": "trainval", "speaker": "spk1"}
    assert found["test/spk9/00001.mp4"].split == "test"
    assert found["pretrain/spk2/00001.mp4"].text == "we are here to stay"
    assert found["pretrain/spk2/00001.mp4"].start is None
    assert "00002.txt" in found["trainval/spk1/00002.mp4"].reason


def test_long_clips_with_word_times_are_cut_between_words(tmp_path: Path) -> None:
    made(tmp_path, pretrain__s__1_dot_mp4="", pretrain__s__1_dot_txt=PRETRAIN)
    clips = read_layout(tmp_path, "lrs3", longest=2.2).clips
    assert [(clip.start, clip.end, clip.text) for clip in clips] == [
        (0.05, 1.1, "we are"),  # half of the pause, at most half a second of it
        (1.5, 3.6, "here to stay"),
    ]


def test_cutting_never_exceeds_the_longest_where_words_allow() -> None:
    words = [(f"w{k}", 0.5 * k + 0.1, 0.5 * k + 0.4) for k in range(40)]
    pieces = cut_words(words, 3.0)
    assert all(end - start <= 3.0 + 1e-9 for start, end, _ in pieces)
    assert " ".join(text for _, _, text in pieces) == " ".join(word for word, _, _ in words)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(pieces))


def test_lrs2_takes_splits_from_its_lists(tmp_path: Path) -> None:
    files = {f"main__55__0000{k}_dot_mp4": "" for k in range(4)}
    files |= {f"main__55__0000{k}_dot_txt": f"Text:  CLIP {k}\nConf:  4\n" for k in range(4)}
    files |= {"train_dot_txt": "55/00000\n", "val_dot_txt": "55/00001\n"}
    files |= {"pretrain__55__00002_dot_mp4": "", "pretrain__55__00002_dot_txt": PRETRAIN}
    made(tmp_path, **files)
    with pytest.raises(UserError, match=r"test\.txt is missing"):
        rows(tmp_path, "lrs2")
    made(tmp_path, test_dot_txt="55/00002 NF\n")
    found = rows(tmp_path, "lrs2")
    splits = [found[f"main/55/0000{k}.mp4"].split for k in range(3)]
    assert splits == ["train", "val", "test"]
    assert found["pretrain/55/00002.mp4"].split == "train"  # the lists are of main
    assert "lists it" in found["main/55/00003.mp4"].reason


def test_a_list_of_lrs2_that_is_no_text_is_one_sentence(tmp_path: Path) -> None:
    made(tmp_path, main__55__00000_dot_mp4="", val_dot_txt="", test_dot_txt="")
    (tmp_path / "train.txt").write_bytes("55/caf\xe9\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"train\.txt is not text in UTF-8"):
        rows(tmp_path, "lrs2")


def test_an_align_file_that_cannot_be_read_costs_its_clip_alone(tmp_path: Path) -> None:
    made(tmp_path, s3__bbaf2n_dot_mpg="", s3__swwp2s_dot_mpg="")
    (tmp_path / "s3" / "bbaf2n.align").mkdir()
    found = rows(tmp_path, "grid")
    assert "bbaf2n.align cannot be read" in found["s3/bbaf2n.mpg"].reason
    assert found["s3/swwp2s.mpg"].text == "set white with p two soon"


def test_grid(tmp_path: Path) -> None:
    align = "0 14500 sil\n14500 20000 place\n20000 27000 red\n27000 30000 at\n30000 34000 c\n"
    align += "34000 40000 zero\n40000 47000 now\n47000 74500 sil\n"
    made(
        tmp_path,
        s1__video__mpg_6000__odd_dot_mpg="",
        s1__align__odd_dot_align=align,
        s3__bbaf2n_dot_mpg="",
        s3__nonsense_dot_mpg="",
        s3__swwp2s_dot_mpg="",
        align__s3__swwp2s_dot_align="0 1000 set\n1000 2000 broken",
    )
    (tmp_path / "align" / "s3" / "swwp2s.align").write_text("0 1000 set\nbroken\n")
    found = rows(tmp_path, "grid")
    assert found["s1/video/mpg_6000/odd.mpg"].text == "place red at c zero now"
    assert found["s1/video/mpg_6000/odd.mpg"].split == "test"
    assert found["s3/bbaf2n.mpg"].text == "bin blue at f two now"
    assert found["s3/bbaf2n.mpg"].extra == {"speaker": "s3"}
    assert "no sentence of GRID" in found["s3/nonsense.mpg"].reason
    assert "broken" in found["s3/swwp2s.mpg"].reason


def test_every_word_of_grid_has_its_letter() -> None:
    assert grid_text("id2_vcd_swwp2s") == "set white with p two soon"
    assert grid_text("lgizzp") == "lay green in z zero please"
    assert grid_text("pram9a") == "place red at m nine again"


def test_voxceleb2(tmp_path: Path) -> None:
    made(
        tmp_path,
        dev__mp4__id00012__aB__00001_dot_mp4="",
        dev__aac__id00012__aB__00001_dot_m4a="",
        test__mp4__id00017__cD__00003_dot_mp4="",
    )
    found = rows(tmp_path, "voxceleb2")
    one = found["dev/mp4/id00012/aB/00001.mp4"]
    assert (one.text, one.split) == ("", "train")
    assert one.wav == "dev/aac/id00012/aB/00001.m4a"
    other = found["test/mp4/id00017/cD/00003.mp4"]
    assert (other.split, other.wav, other.extra) == ("test", "", {"speaker": "id00017"})


def test_few_speakers_are_held_back() -> None:
    share = sum(held_back(f"id{k:05d}", VAL) == "val" for k in range(5000)) / 5000
    assert 0.03 < share < 0.05
    assert {held_back(f"id{k:05d}", 0.0) for k in range(500)} == {"train"}


@pytest.mark.parametrize("layout", ["lrs3", "lrs2", "grid", "voxceleb2"])
def test_a_folder_of_another_kind_is_refused(layout: str, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    with pytest.raises(UserError, match=str(tmp_path)):
        rows(tmp_path, layout)


@pytest.mark.parametrize(
    "times", [("0 nan", "2.4 3"), ("nan 0.3", "2.4 3"), ("-9 0.3", "2.4 3"), ("0.5 0.2", "2.4 3"),
              ("0 0.3", "2.4 inf"), ("2.4 3", "0 0.3")]
)  # fmt: skip
def test_word_times_that_are_none_cost_the_clip(times: tuple[str, str], tmp_path: Path) -> None:
    words = f"A {times[0]} 1\nB {times[1]} 1\n"
    text = f"Text:  A B\n\nWORD START END ASDSCORE\n{words}"
    made(tmp_path, trainval__a__1_dot_mp4="", trainval__a__1_dot_txt=text)
    [clip] = read_layout(tmp_path, "lrs3", longest=2.0).clips
    assert clip.has_video is False
    assert "is not a word, its start and its end, or not in order" in clip.reason
